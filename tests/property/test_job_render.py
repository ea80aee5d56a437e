"""What a rendered script asks of its scheduler is the layout it was made from, for any layout, and its values are the config's."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.job.directives import parse
from stormbench.job.load import Job, load
from stormbench.job.render import render, template_folder

LAYOUTS = st.fixed_dictionaries({
    "nodes": st.integers(1, 10000), "ranks": st.integers(1, 16), "cores": st.integers(1, 64), "gpus_per_rank": st.integers(0, 2),
    "minutes": st.integers(10, 5000),
})  # fmt: skip
SYSTEMS = {
    "slurm": ["SBATCH_PARTITION=p"], "lsf": ["STORMBENCH_QUEUE=p"], "pbs": ["STORMBENCH_QUEUE=p", "STORMBENCH_SELECT=system=polaris"],
}  # fmt: skip
GPU_REQUESTS = ("gpus-per-node", "gres", "gpus")


def loaded(folder: Path, *lines: str) -> Job:
    """Return the job of a config with these assignments."""
    path = folder / "my_config.sh"
    path.write_text("".join(f"export {line}\n" for line in lines))
    job = load(path, {"HOME": "/root", "PATH": os.environ["PATH"]})
    assert not job.errors, [str(finding) for finding in job.errors]
    return job


def assignments(scheduler: str, layout: dict[str, int], *more: str) -> list[str]:
    gpus = layout["ranks"] * layout["gpus_per_rank"]
    return [
        "DGXSYSTEM=X", f"STORMBENCH_SCHEDULER={scheduler}", f"DGXNNODES={layout['nodes']}", f"DGXNGPU={layout['ranks']}",
        f"STORMBENCH_CORES_PER_RANK={layout['cores']}", f"STORMBENCH_GPUS_PER_NODE={gpus}", f"WALLTIME={layout['minutes']}",
        f"STORMBENCH_GPU_VENDOR={'nvidia' if gpus else 'none'}", "DATA_FORMAT=dummy",
        "STORMBENCH_DUMMY_TRAIN=400000", *SYSTEMS[scheduler], *more,
    ]  # fmt: skip


def assert_asks_for(text: str, scheduler: str, layout: dict[str, int]) -> None:
    request = parse(text, scheduler)
    found = (request.nodes, request.ranks_per_node, request.cores_per_rank, request.gpus_per_node, request.wall_s, request.queue)
    gpus = layout["ranks"] * layout["gpus_per_rank"]
    assert found == (layout["nodes"], layout["ranks"], layout["cores"], gpus, layout["minutes"] * 60, "p")


@pytest.mark.parametrize("scheduler", SYSTEMS)
@given(layout=LAYOUTS)
@settings(max_examples=25, deadline=None)
def test_the_directives_parse_back_into_the_layout(scheduler: str, layout: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_asks_for(render(loaded(Path(folder), *assignments(scheduler, layout))), scheduler, layout)


@pytest.mark.parametrize("tasks", ["0", "1"])
@pytest.mark.parametrize("request_", GPU_REQUESTS)
@given(layout=LAYOUTS)
@settings(max_examples=10, deadline=None)
def test_so_do_those_of_sites_with_ways_of_their_own(request_: str, tasks: str, layout: dict[str, int]) -> None:
    more = (f"STORMBENCH_GPU_REQUEST={request_}", f"STORMBENCH_TASKS_IN_DIRECTIVES={tasks}", "STORMBENCH_GPU_TYPE=a100")
    with tempfile.TemporaryDirectory() as folder:
        text = render(loaded(Path(folder), *assignments("slurm", layout, *more)))
        assert_asks_for(text, "slurm", layout)
        assert ("--ntasks-per-node" in text.split("set -uo")[0]) == (tasks == "1")


@given(value=st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1).filter(lambda text: text.strip()))
@settings(max_examples=60, deadline=None)
def test_a_value_reaches_the_job_as_it_stood_whatever_letters_it_has(value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "my_config.sh"
        path.write_text("export DGXSYSTEM=X STORMBENCH_SCHEDULER=local ADDITIONAL_ARGS=$GIVEN\n")
        environ = {"HOME": "/root", "PATH": os.environ["PATH"]}
        path.write_text(path.read_text().replace("$GIVEN", "'" + value.replace("'", "'\"'\"'") + "'"), encoding="utf-8")
        job = load(path, environ)
        settings_of_script = "\n".join(line for line in render(job).splitlines() if line.startswith("export ADDITIONAL_ARGS="))
        shell = f'{settings_of_script}\nprintf %s "$ADDITIONAL_ARGS"'
        done = subprocess.run(["bash", "-c", shell], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout.decode() == value


def test_an_undefined_name_in_a_template_is_an_error() -> None:
    from jinja2 import UndefinedError

    from stormbench.job import render as module

    template = next(path for path in template_folder().iterdir() if path.name == "local.sh.j2")
    assert "{{ about" in template.read_text()
    with pytest.raises(UndefinedError, match="about"):
        module._fill("local.sh.j2", runtime="none", baked=True, settings=[], unset=["A"], defaults=[], names=[], modules=False, hint="")


@pytest.mark.parametrize(
    ("lines", "overrides", "runtime"),
    [
        (("CONT=kit:1",), {}, "pyxis"),
        (("CONT=kit:1", "STORMBENCH_SCHEDULER=pbs"), {}, "apptainer"),
        (("STORMBENCH_SCHEDULER=docker", "DGXNNODES=1"), {}, "docker"),
        (("STORMBENCH_RUNTIME=pyxis",), {"STORMBENCH_SCHEDULER": "lsf"}, "apptainer"),
        (("STORMBENCH_RUNTIME=apptainer",), {"STORMBENCH_SCHEDULER": "pbs"}, "apptainer"),
        (("STORMBENCH_RUNTIME=none",), {"STORMBENCH_SCHEDULER": "lsf"}, "none"),
        ((), {}, "none"),
    ],
)
def test_a_runtime_that_nobody_names_goes_with_the_image_and_the_scheduler(
    tmp_path: Path, lines: tuple[str, ...], overrides: dict[str, str], runtime: str
) -> None:
    path = tmp_path / "my_config.sh"
    path.write_text("".join(f"export {line}\n" for line in ("DGXSYSTEM=X", "WALLTIME=60", "DATA_FORMAT=dummy", *lines)))
    job = load(path, {"HOME": "/root", "PATH": os.environ["PATH"]}, overrides)
    assert not job.errors, [str(finding) for finding in job.errors]
    assert job.config.runtime == runtime


@given(wall_s=st.integers(30, 4000), warning=st.one_of(st.none(), st.integers(0, 900)))
@settings(max_examples=25, deadline=None)
def test_every_lsf_job_is_warned_before_its_limit_by_lsf_or_by_its_own_clock(wall_s: int, warning: int | None) -> None:
    more = [] if warning is None else [f"STORMBENCH_WARNING={warning}"]
    layout = {"nodes": 1, "ranks": 1, "cores": 1, "gpus_per_rank": 0, "minutes": 1}
    lines = [line for line in assignments("lsf", layout, *more) if not line.startswith("WALLTIME=")]
    with tempfile.TemporaryDirectory() as folder:
        try:
            text = render(loaded(Path(folder), *lines, f"WALLTIME={wall_s // 3600:02d}:{wall_s // 60 % 60:02d}:{wall_s % 60:02d}"))
        except AssertionError:
            # a warning that isn't below the limit is refused before
            return
    by_lsf, by_clock = "#BSUB -wa USR1" in text, "then warn_later" in text
    assert by_lsf != by_clock
