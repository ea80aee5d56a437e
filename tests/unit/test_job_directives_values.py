"""Values of directives by the schedulers' own grammars, and where a PBS script's directives stand: what the real programs take is taken."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.core.errors import UserError
from stormbench.job import directives_for
from stormbench.job.config import JobConfig
from stormbench.job.directives import Request, parse
from stormbench.job.directives_pbs_script import quoted, split
from stormbench.job.layout import Layout
from stormbench.job.load import Job

PREFIX = {"slurm": "#SBATCH", "lsf": "#BSUB", "pbs": "#PBS"}
TAKEN = [
    ("lsf", "-nnodes 2 -ln_slots 4 -ln_mem 4000"),
    ("lsf", "-csm y -n 4 -cn_mem 200"),
    ("lsf", "-json job.json"),
    ("lsf", "-M 4GB"),
    ("lsf", "-M '4 G!'"),
    ("lsf", "-We 1:00 -c 3:30/h"),
    ("lsf", "-w 'done(123) && (ended(\"x*\") || !exit(7,>3))'"),
    ("lsf", "-w 'numdone(123, >= 5)'"),
    ("lsf", "-gpu num=4/task:mode=exclusive_process:mps=yes,nocvd:j_exclusive=yes"),
    ("lsf", "-n 4 -R 'select[mem>10] span[ptile=2]' -R rusage[mem=10]"),
    ("lsf", "-n 5 -R '1*{select[LN] span[hosts=1]}+4*{select[CN] span[ptile=4]}'"),
    ("lsf", "-alloc_flags 'gpumps smt1'"),
    ("lsf", "-env 'all, A=1'"),
    ("pbs", "-l select=1:ncpus=1:gputype=V100:cputype=amd:hosts=a:models=x"),
    ("pbs", "-l mylic=3 -l systems=a -l filesystem=home"),
    ("pbs", "-l place=scatter:exclhost:group=rack"),
    ("pbs", "-l select=1:ncpus=8:mem=16gb -l place=pack:excl"),
    ("pbs", "-p -1024 -a 2212311230 -k doe -c w=10"),
    ("pbs", "-W depend=afterok:123:124.server,afterany:125[] -W umask=022 -W block=true"),
    ("slurm", "-N 1 --gres=gpu:1g.5gb:2,nvme:10G"),
    ("slurm", "-N 1 --gpus=v100:2,a100:2"),
]
REFUSED = [
    ("lsf", "-csm y -nnodes 2", "can't stand with -csm y"),
    ("lsf", "-csm y -n 2 -ln_slots 2", "can't stand with -csm y"),
    ("lsf", "-nnodes 2 -cn_mem 200", "only with -csm y"),
    ("lsf", "-nnodes 1 -R 'foo['", "close its brackets"),
    ("lsf", "-n 4 -R 'spam[ptile=4]'", "did you mean span?"),
    ("lsf", "-n 4 -R span[ptile=x]", "Bad resource requirement syntax"),
    ("lsf", "-n 4 -R span[ptile=2] -R span[hosts=1]", "a second span"),
    ("lsf", "-gpu num=0", "Bad GPU requirement"),
    ("lsf", "-gpu num=1:mode=foo", "Bad GPU requirement"),
    ("lsf", "-w 'foo(123)'", "Bad dependency condition"),
    ("lsf", "-w 'done(123'", "Bad dependency condition"),
    ("lsf", "-w 'done(1) done(2)'", "Bad dependency condition"),
    ("lsf", "-M abc", "-M"),
    ("lsf", "-We x", "-We"),
    ("lsf", "-c x", "-c"),
    ("lsf", "-b tomorrow", "-b"),
    ("lsf", "-o a -oo b", "can't stand with -o a"),
    ("lsf", "-r -rn", "can't stand with -r"),
    ("lsf", "-K -I", "can't stand with -K"),
    ("lsf", "-hostfile f -n 4", "can't stand with -hostfile"),
    ("lsf", "-env ''", "empty"),
    ("lsf", "-alloc_flags gpumps,smt1", "-alloc_flags"),
    ("pbs", "-l place=pack -l ncpus=2", 'cannot be used with "select" or "place"'),
    ("pbs", "-l select=1:ncpus=1 -l nodes=2", 'cannot be used with "select"'),
    ("pbs", "-l place=packexcl", "Illegal place"),
    ("pbs", "-l select=1:mem=abc", "write mem=NUMBER"),
    ("pbs", "-l waltime=1:00:00", "did you mean walltime?"),
    ("pbs", "-p 2000", "from -1024 to 1023"),
    ("pbs", "-W depend=afterok:abc", "write depend=afterok:JOB"),
    ("pbs", "-W depend=afterany:1028[1]", "cannot have dependency on subjob"),
    ("pbs", "-W umask=999", "illegal -W value"),
    ("pbs", "-W block=perhaps", "illegal -W value"),
    ("pbs", "-a tomorrow", "illegal -a value"),
    ("pbs", "-k d", "illegal -k value"),
    ("slurm", "--gres=gpu:x:y:z", "Invalid --gres"),
    ("slurm", "-N 1 --gpus=abc:def", "Invalid --gpus"),
    ("slurm", "--nodelist=", "Invalid --nodelist"),
]


def read(scheduler: str, *lines: str) -> Request:
    return parse("\n".join(["#!/bin/bash", *(f"{PREFIX[scheduler]} {line}" for line in lines), "echo", ""]), scheduler, "job.sh")


@pytest.mark.parametrize(("scheduler", "line"), TAKEN, ids=[f"{case[0]} {case[1]}"[:60] for case in TAKEN])
def test_what_a_scheduler_takes_is_taken(scheduler: str, line: str) -> None:
    assert read(scheduler, line).nodes >= 1


@pytest.mark.parametrize(("scheduler", "line", "words"), REFUSED, ids=[f"{case[0]} {case[1]}"[:60] for case in REFUSED])
def test_what_a_scheduler_refuses_is_an_error_in_one_sentence(scheduler: str, line: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(scheduler, line)
    assert str(caught.value).startswith("job.sh:2: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("directive", ["  #PBS -l select=3:ncpus=4", "\t#PBS -l select=3:ncpus=4", "#PBS-l select=3:ncpus=4"])
def test_qsub_takes_a_directive_with_blanks_before_and_none_behind_its_prefix(directive: str) -> None:
    assert parse(f"#!/bin/bash\n{directive}\necho\n", "pbs").nodes == 3


def test_qsub_joins_lines_at_a_backslash() -> None:
    request = parse("#!/bin/bash\n#PBS -l select=2:ncpus=8\\\n:mpiprocs=4 \\\n-l walltime=60\n: no command\n#PBS -N x\necho\n", "pbs")
    assert (request.nodes, request.ranks_per_node, request.wall_s, request.name) == (2, 4, 60, "x")


@pytest.mark.parametrize("line", ["#PBSX", "#PBS -l select=1 \\\n#PBS -N x"])
def test_words_that_qsub_would_take_for_no_option_are_refused(line: str) -> None:
    with pytest.raises(UserError, match="belongs to no option of #PBS"):
        parse(f"#!/bin/bash\n{line}\necho\n", "pbs")


@given(st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=("Cs",)), min_size=1))
@settings(max_examples=100, deadline=None)
def test_a_quoted_word_is_read_back_by_qsubs_rules(word: str) -> None:
    assert split(f"-o {quoted(word)} -V", "here") == ["-o", word, "-V"]


def test_the_older_nodes_of_pbs_are_counted() -> None:
    request = read("pbs", "-l nodes=2:ppn=4")
    assert (request.nodes, request.ranks_per_node) == (2, 4)


@given(
    wall_s=st.one_of(st.integers(60, 400), st.integers(60, 400000)),
    warning_s=st.one_of(st.none(), st.integers(0, 600)),
    scheduler=st.sampled_from(["slurm", "lsf", "pbs"]),
)
@settings(max_examples=200, deadline=None)
def test_the_directives_of_any_wall_time_and_warning_read_back(wall_s: int, warning_s: int | None, scheduler: str) -> None:
    config = dataclasses.replace(JobConfig(nodes=1, ranks_per_node=1), scheduler=scheduler, walltime=wall_s, warning_s=warning_s)
    job = SimpleNamespace(config=config, layout=Layout(nodes=2, ranks_per_node=4, wall_s=wall_s), benchmark="deepcam", values={})
    lines = directives_for.build(cast(Job, cast(Any, job)))
    request = read(scheduler, *lines)
    # LSF counts in minutes
    assert request.wall_s == (-(-wall_s // 60) * 60 if scheduler == "lsf" else wall_s)
    assert (request.nodes, request.ranks_per_node) == (2, 4)
