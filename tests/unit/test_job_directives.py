"""Directives of job scripts: what a scheduler would refuse is an error with its place, and what it takes means the same here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.core.errors import UserError
from stormbench.job.directives import Request, parse
from stormbench.job.layout import Layout

SCHEDULERS = {"slurm": "#SBATCH", "lsf": "#BSUB", "pbs": "#PBS"}


def script(scheduler: str, *lines: str) -> str:
    """Return a script whose second line on are directives, and then a command."""
    return "\n".join(["#!/bin/bash", *(f"{SCHEDULERS[scheduler]} {line}" for line in lines), "", "echo hello", ""])


def read(scheduler: str, *lines: str) -> Request:
    return parse(script(scheduler, *lines), scheduler, "job.sh")


def refusal(scheduler: str, *lines: str) -> str:
    with pytest.raises(UserError) as caught:
        read(scheduler, *lines)
    return str(caught.value)


REFUSED = [
    ("slurm", ["--nodez=4"], 2, "unrecognized option '--nodez'; did you mean --nodes?"),
    ("slurm", ["-N 4", "-y"], 3, "invalid option -- 'y'"),
    ("slurm", ["--hold=yes"], 2, "doesn't allow an argument"),
    ("slurm", ["--nodes"], 2, "requires an argument"),
    ("slurm", ["--gpus-per=2"], 2, "is ambiguous"),
    ("slurm", ["--time=1:x"], 2, "Invalid --time specification"),
    ("slurm", ["--time=1:2:3:4"], 2, "Invalid --time specification"),
    ("slurm", ["--time=0"], 2, "Invalid --time specification"),
    ("slurm", ["--nodes=0"], 2, "at least 1"),
    ("slurm", ["--nodes=4-2"], 2, "backwards"),
    ("slurm", ["-N 2", "--nodes=3"], 3, "contradicts --nodes 2 at job.sh:2"),
    ("slurm", ["-N 2 -n 9 --ntasks-per-node=4"], 2, "--ntasks=9 is more than --nodes=2 x --ntasks-per-node=4"),
    ("slurm", ["-N 4 -n 2"], 2, "fewer than --nodes=4"),
    ("slurm", ["-N 2", "--gpus=5"], 3, "doesn't divide among 2 nodes"),
    ("slurm", ["--gpus=8"], 2, "--gpus=8 alone"),
    ("slurm", ["-N 2", "--gpus=8", "--gpus-per-node=2"], 3, "is not 2 nodes x 2 GPUs"),
    ("slurm", ["--gres=gpu:4", "--gpus-per-node=8"], 2, "--gres asks for 4 GPUs a node"),
    ("slurm", ["--signal=B:NOPE@300"], 2, "Invalid --signal specification"),
    ("slurm", ["--signal=B:USR1@99999"], 2, "at most 65535 s"),
    ("slurm", ["--open-mode=both"], 2, "Invalid --open-mode specification"),
    ("slurm", ["--exclusive=maybe"], 2, "Invalid --exclusive specification"),
    ("slurm", ["--array=4-1"], 2, "Invalid --array specification"),
    ("slurm", ["--mem=1x"], 2, "Invalid --mem specification"),
    ("slurm", ["--job-name=two words"], 2, "'words' belongs to no option"),
    ("slurm", ['--comment="nodes=3'], 2, "no closing quotation"),
    ("slurm", ["-N 2", '--comment="nodes=3"'], 3, "the description says nodes=3, but the options ask for 2"),
    ("slurm", ["--ntasks-per-node=4 -N 1", '--comment="ranks_per_node=8"'], 3, "ranks_per_node=8"),
    ("slurm", ['--comment="nodes=1 ranks_per_node=x"'], 2, "ranks_per_node=x: must be a whole number"),
    ("lsf", ["-foo"], 2, "unrecognized option '-foo'"),
    ("lsf", ["--nnodes 4"], 2, "unrecognized option '--nnodes'"),
    ("lsf", ["-n 4", "-nnodes 2"], 2, "-n 4 can't stand with -nnodes 2 (job.sh:3)"),
    ("lsf", ["-W 1:30:00"], 2, "Bad time specification"),
    ("lsf", ["-W 0"], 2, "Bad time specification"),
    ("lsf", ["-W"], 2, "requires an argument"),
    ("lsf", ["-wa USR1"], 2, "-wa USR1 needs -wt as well"),
    ("lsf", ["-wt 5"], 2, "-wt 5 needs -wa as well"),
    ("lsf", ["-W 10", "-wa USR1 -wt 10"], 3, "must be below the limit -W 10"),
    ("lsf", ["-nnodes 0"], 2, "at least 1"),
    ("lsf", ["-J name[0-3]"], 2, "Bad array index list"),
    ("lsf", ["-J name[x]"], 2, "Bad array index list"),
    ("lsf", ["-J [1-4]"], 2, "Bad job name"),
    ("lsf", ["-R span[ptile=4"], 2, "close its brackets"),
    ("lsf", ["-gpu four"], 2, "Bad GPU requirement"),
    ("lsf", ["-q a", "-q b"], 3, "contradicts -q a at job.sh:2"),
    ("lsf", ["-nnodes 2", '-Jd "nodes=4"'], 3, "the description says nodes=4"),
    ("pbs", ["-Z x"], 2, "invalid option -- 'Z'"),
    ("pbs", ["-l select=1:ncpus=4", "-l select=2:ncpus=4"], 3, "a second select"),
    ("pbs", ["-l select=1:ncpus=4,select=2:ncpus=4"], 2, "a second select"),
    ("pbs", ["-l select=1:ncpus=4", "-l select=1:ncpus=4"], 3, "a second select"),
    ("pbs", ["-l walltime=1-00:00:00"], 2, "Illegal attribute or resource value"),
    ("pbs", ["-l walltime=00:00:00"], 2, "Illegal attribute or resource value"),
    ("pbs", ["-l walltime=01:00:00", "-l walltime=02:00:00"], 3, "contradicts walltime"),
    ("pbs", ["-l select=2:ncpu=4"], 2, "Unknown resource ncpu; did you mean ncpus?"),
    ("pbs", ["-l select=2:ncpus=x"], 2, "ncpus=x: must be a whole number"),
    ("pbs", ["-l select=2:ncpus=4:ncpus=8"], 2, "each resource once"),
    ("pbs", ["-l select=0:ncpus=4"], 2, "at least 1"),
    ("pbs", ["-l select=2:ncpus=4:walltime=10"], 2, "belongs to the whole job"),
    ("pbs", ["-l select=2:ncpus=4", "-l ncpus=4"], 3, 'cannot be used with "select"'),
    ("pbs", ["-l place=anywhere"], 2, "Illegal place"),
    ("pbs", ["-l walltime"], 2, "write -l NAME=VALUE"),
    ("pbs", ["-N two words"], 2, "'words' belongs to no option"),
    ("pbs", ["-N 'two words'"], 2, "illegal -N value"),
    ("pbs", [f"-N {'x' * 231}"], 2, "at most 230 characters"),
    ("pbs", ["-N x # why"], 2, "'#' belongs to no option"),
    ("pbs", ["-j both"], 2, "illegal -j value"),
    ("pbs", ["-r maybe"], 2, "illegal -r value"),
    ("pbs", ["-J 4-4"], 2, "illegal -J value"),
    ("pbs", ["-J 1,2"], 2, "illegal -J value"),
    ("pbs", ["-W dependd=afterok:1"], 2, "did you mean depend?"),
    ("pbs", ["-W depend=afterwards:1"], 2, "write depend=afterok:JOB"),
]


@pytest.mark.parametrize(
    ("scheduler", "lines", "line", "words"), REFUSED, ids=[f"{case[0]} {' / '.join(case[1])}"[:60] for case in REFUSED]
)
def test_what_a_scheduler_refuses_is_an_error_at_its_line(scheduler: str, lines: list[str], line: int, words: str) -> None:
    told = refusal(scheduler, *lines)
    assert told.startswith(f"job.sh:{line}: ")
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize(("scheduler", "prefix"), SCHEDULERS.items())
def test_a_directive_after_the_first_command_is_an_error_as_it_would_be_ignored(scheduler: str, prefix: str) -> None:
    with pytest.raises(UserError, match=r"job.sh:4: .* comes after the first command \(line 3\)"):
        parse(f"#!/bin/bash\n# a comment\ncd /\n{prefix} -q x\n", scheduler, "job.sh")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_comments_and_blank_lines_may_stand_between_directives(scheduler: str) -> None:
    prefix, queue = SCHEDULERS[scheduler], "-p" if scheduler == "slurm" else "-q"
    text = f"#!/bin/bash\n\n# why\n#{prefix} -bogus\n# {prefix}\n   \n{prefix} {queue} gpu\necho\n"
    assert parse(text, scheduler).queue == "gpu"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_dos_line_ends_are_an_error(scheduler: str) -> None:
    with pytest.raises(UserError, match="job:2: ends in a DOS line break"):
        parse(f"#!/bin/bash\r\n{SCHEDULERS[scheduler]} -q x\r\necho\r\n", scheduler)


def test_an_unknown_scheduler_is_named() -> None:
    with pytest.raises(UserError, match=r"slum has no directives; .*did you mean slurm"):
        parse("", "slum")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("2:00:00", 7200),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-12:30:05", 131405),
        ("1:90:00", 9000),
        ("infinite", None),
    ],
)
def test_slurm_reads_two_fields_as_minutes_and_seconds_and_with_days_as_hours_and_minutes(text: str, seconds: int | None) -> None:
    assert read("slurm", f"--time={text}").wall_s == seconds


@pytest.mark.parametrize(("text", "seconds"), [("90", 5400), ("1:30", 5400), ("48:00", 172800), ("2:00/host1", 7200), ("3:75", 15300)])
def test_lsf_reads_two_fields_as_hours_and_minutes_which_may_be_above_59(text: str, seconds: int) -> None:
    assert read("lsf", f"-W {text}").wall_s == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("01:30", 90), ("01:30:00", 5400), ("100:00:00", 360000), ("0:90:00", 5400), ("1:2:3", 3723), ("10.5", 11)],
)
def test_pbs_reads_a_number_as_seconds_and_bounds_no_part(text: str, seconds: int) -> None:
    assert read("pbs", f"-l walltime={text}").wall_s == seconds


@pytest.mark.parametrize(
    ("lines", "nodes", "gpus"),
    [
        (["-N 2", "--gres=gpu:a100:4"], 2, 4),
        (["-N 2", "--gres=nvme:1,gpu:4"], 2, 4),
        (["-N 2", "-G v100:8"], 2, 4),
        (["--gpus=64 --gpus-per-node=4"], 16, 4),
        (["--nodes=2", "--gpus-per-node=1", "--gpus=2"], 2, 1),
        (["--nodes=3"], 3, 0),
    ],
)
def test_slurm_gpus_are_counted_per_node_however_they_are_asked_for(lines: list[str], nodes: int, gpus: int) -> None:
    request = read("slurm", *lines)
    assert (request.nodes, request.gpus_per_node) == (nodes, gpus)


def test_slurm_takes_short_options_abbreviations_and_trailing_comments() -> None:
    request = read("slurm", "-N2 -c 4 --part=gpu --ntasks-per-node 8 # why", "-Jname", "--comment=anything", "--exclusive", "--requeue")
    assert (request.nodes, request.cores_per_rank, request.ranks_per_node, request.queue, request.name) == (2, 4, 8, "gpu", "name")
    assert request.options["exclusive"] == [""]


@pytest.mark.parametrize(("text", "indices"), [("1-4", (1, 2, 3, 4)), ("0,6,9-10", (0, 6, 9, 10)), ("0-15:5%2", (0, 5, 10, 15))])
def test_slurm_arrays_are_written_out(text: str, indices: tuple[int, ...]) -> None:
    assert read("slurm", f"--array={text}").array == indices


def test_lsf_and_pbs_arrays_are_written_out() -> None:
    assert (read("lsf", "-J 'run[1-3,7]%2'").name, read("lsf", "-J 'run[1-3,7]%2'").array) == ("run", (1, 2, 3, 7))
    assert read("pbs", "-J 1-7:3").array == (1, 4, 7)


def test_pbs_chunks_give_nodes_ranks_cores_and_gpus_and_custom_resources_pass() -> None:
    request = read(
        "pbs",
        "-l select=10:ncpus=64:mpiprocs=4:ngpus=4:system=polaris -l place=scatter:excl",
        "-l walltime=01:00:00,filesystems=home:eagle",
    )
    assert (request.nodes, request.ranks_per_node, request.cores_per_rank, request.gpus_per_node, request.wall_s) == (10, 4, 16, 4, 3600)
    assert request.options["l"][-1] == "filesystems=home:eagle"


def test_pbs_chunks_joined_by_plus_are_added_and_what_differs_is_unknown() -> None:
    request = read("pbs", "-l select=1:ncpus=8:mpiprocs=4+3:ncpus=8:mpiprocs=2")
    assert (request.nodes, request.ranks_per_node) == (4, None)


def test_lsf_slots_with_ptile_are_nodes_and_ranks() -> None:
    request = read("lsf", "-n 40", "-R 'span[ptile=10] rusage[mem=4]'", "-gpu num=4:mode=shared")
    assert (request.nodes, request.ranks_per_node, request.gpus_per_node) == (4, 10, 4)


def test_a_description_fills_in_what_a_site_refuses_in_directives() -> None:
    request = read("slurm", "--nodes=16 --gres=gpu:4", '--comment="nodes=16 ranks_per_node=4 cores_per_rank=10 gpus_per_node=4"')
    assert (request.ranks_per_node, request.cores_per_rank) == (4, 10)


names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True)
layouts = st.builds(
    Layout,
    nodes=st.integers(1, 5000),
    ranks_per_node=st.integers(1, 128),
    cores_per_rank=st.integers(1, 288),
    gpus_per_node=st.integers(0, 16),
    wall_s=st.integers(1, 20000).map(lambda minutes: minutes * 60),
)


def _expected(layout: Layout) -> tuple[int | None, ...]:
    return layout.nodes, layout.ranks_per_node, layout.cores_per_rank, layout.gpus_per_node, layout.wall_s


def _found(request: Request) -> tuple[int | None, ...]:
    return request.nodes, request.ranks_per_node, request.cores_per_rank, request.gpus_per_node, request.wall_s


def _description(layout: Layout) -> str:
    ranks = f"ranks_per_node={layout.ranks_per_node} cores_per_rank={layout.cores_per_rank}"
    return f"nodes={layout.nodes} {ranks} gpus_per_node={layout.gpus_per_node}"


@given(
    layout=layouts, name=names, queue=names, how=st.sampled_from(["gpus-per-node", "gres", "gpus"]), tasks=st.booleans(), seed=st.randoms()
)
@settings(max_examples=150, deadline=None)
def test_slurm_directives_of_any_layout_read_back(layout: Layout, name: str, queue: str, how: str, tasks: bool, seed: object) -> None:
    wall = layout.wall_s or 0
    lines = [f"--nodes={layout.nodes}", f"-J {name}", f"--partition={queue}", f'--comment="{_description(layout)}"']
    lines.append(f"--time={wall // 86400}-{wall // 3600 % 24:02d}:{wall // 60 % 60:02d}:00")
    if tasks:
        lines.append(f"--ntasks-per-node={layout.ranks_per_node} --cpus-per-task={layout.cores_per_rank}")
    if layout.gpus_per_node:
        lines.append(
            {
                "gpus-per-node": f"--gpus-per-node=a100:{layout.gpus_per_node}",
                "gres": f"--gres=gpu:{layout.gpus_per_node}",
                "gpus": f"-G {layout.gpus}",
            }[how]
        )
    seed.shuffle(lines)  # type: ignore[attr-defined]
    request = read("slurm", *lines)
    assert _found(request) == _expected(layout)
    assert (request.name, request.queue) == (name, queue)


@given(layout=layouts, name=names, queue=names)
@settings(max_examples=100, deadline=None)
def test_lsf_directives_of_any_layout_read_back(layout: Layout, name: str, queue: str) -> None:
    minutes = (layout.wall_s or 0) // 60
    request = read(
        "lsf", f"-J {name} -q {queue}", f"-nnodes {layout.nodes}", f"-W {minutes // 60}:{minutes % 60:02d}", f'-Jd "{_description(layout)}"'
    )
    assert _found(request) == _expected(layout)
    assert (request.name, request.queue) == (name, queue)


@given(layout=layouts, name=names, queue=names)
@settings(max_examples=100, deadline=None)
def test_pbs_directives_of_any_layout_read_back(layout: Layout, name: str, queue: str) -> None:
    chunk = f"{layout.nodes}:ncpus={layout.ranks_per_node * layout.cores_per_rank}:mpiprocs={layout.ranks_per_node}"
    gpus = f":ngpus={layout.gpus_per_node}" if layout.gpus_per_node else ""
    wall = layout.wall_s or 0
    request = read(
        "pbs", f"-N {name} -q {queue}", f"-l select={chunk}{gpus}:system=x", f"-l walltime={wall // 3600:02d}:{wall // 60 % 60:02d}:00"
    )
    assert _found(request) == _expected(layout)
    assert (request.name, request.queue) == (name, queue)


@given(scheduler=st.sampled_from(list(SCHEDULERS)), words=st.lists(st.text(max_size=12), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_other_text_is_read_or_refused_in_one_sentence(scheduler: str, words: list[str]) -> None:
    try:
        request = parse(script(scheduler, " ".join(words)), scheduler)
    except UserError as error:
        assert str(error).startswith("job:")
    else:
        assert request.nodes >= 1
