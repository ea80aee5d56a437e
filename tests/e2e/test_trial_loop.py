"""The trial loop, decision by decision, in whole jobs under the stand-ins with a workload that ends at once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.e2e.test_lsf_pbs import Site

WORKLOAD = """\
#!/bin/sh
echo "$* cleared=$STORMBENCH_CACHE_CLEARED" >>"$SEEN"
case "$1 $2" in
    "deepcam allreduce") exit "${ALLREDUCE:-0}" ;;
    "results check") exit "${VERDICT:-0}" ;;
esac
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A PBS job of two nodes whose workload notes how it was called."""
    (tmp_path / "data").mkdir()
    made = Site(tmp_path / "site", "pbs", tmp_path / "data")
    program = tmp_path / "workload" / "stormbench"
    program.parent.mkdir()
    program.write_text(WORKLOAD)
    program.chmod(0o755)
    made.environ |= {"PATH": f"{program.parent}{os.pathsep}{made.environ['PATH']}", "SEEN": str(tmp_path / "seen")}
    return made


def changed(site: Site, **values: str) -> None:
    """Set values in the rendered script, as a site engineer may edit it."""
    script = site.folder / "job.sh"
    lines = script.read_text().splitlines(keepends=True)
    for name, value in values.items():
        lines = [f"export {name}='{value}'\n" if line.startswith(f"export {name}=") else line for line in lines]
        assert f"export {name}='{value}'\n" in lines, name
    script.write_text("".join(lines))


def submitted(site: Site, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        ["qsub", "-V", *words, "job.sh"], cwd=site.folder, env=site.environ, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def seen(site: Site) -> list[str]:
    return Path(site.environ["SEEN"]).read_text().splitlines() if Path(site.environ["SEEN"]).exists() else []


def test_a_job_whose_log_is_non_compliant_fails(site: Site) -> None:
    site.environ["VERDICT"] = "1"
    code, printed = submitted(site)
    assert code == 1, printed
    assert "1 of 1 trial(s) failed or are non-compliant" in printed
    assert site.state()[1:] == ["trial 1 seed 40 code 1", "done 1"]


def test_a_job_without_the_check_of_compliance_asks_for_none(site: Site) -> None:
    site.environ["VERDICT"] = "1"
    changed(site, CHECK_COMPLIANCE="0")
    code, printed = submitted(site)
    assert code == 0, printed
    assert not any(line.startswith("results check") for line in seen(site))


@pytest.mark.parametrize(("code", "trials"), [("1", 0), ("0", 1)])
def test_no_trial_starts_after_an_all_reduce_test_that_failed(site: Site, code: str, trials: int) -> None:
    site.environ["ALLREDUCE"] = code
    changed(site, NCCL_TEST="1")
    ended, printed = submitted(site)
    assert ended == (1 if code == "1" else 0), printed
    assert sum(line.startswith("deepcam train") for line in seen(site)) == 2 * trials
    assert ("the all-reduce test failed, so no trial was started" in printed) is (code == "1")


def test_the_caches_count_as_cleared_only_if_every_node_has_dropped_its_own(site: Site) -> None:
    # both nodes of a rehearsal are this machine, which has one name: one of two has dropped them, or none where it may not
    changed(site, CLEAR_CACHES="1")
    code, printed = submitted(site)
    assert code == 0, printed
    assert "of 2 nodes could be dropped" in printed
    assert {line.split()[-1] for line in seen(site) if line.startswith("deepcam train")} == {"cleared=0"}


@pytest.mark.parametrize("nodes", [1, 3])
def test_another_number_of_nodes_than_the_scripts_stops_at_once_with_the_command_to_use(site: Site, nodes: int) -> None:
    code, printed = submitted(site, "-l", f"select={nodes}:ncpus=2:mpiprocs=2")
    assert code == 2, printed
    assert f"the job has {nodes} node(s), the script needs DGXNNODES=2; use: qsub -V -A PROJECT -l select=2:" in printed
    assert seen(site) == []


def test_an_lsf_job_with_another_number_of_nodes_stops_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    site = Site(tmp_path / "site", "lsf", tmp_path / "data")
    command = ["bash", "-c", "bsub -nnodes 3 -Jd other < job.sh"]
    done = subprocess.run(command, cwd=site.folder, env=site.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "the job has 3 node(s), the script needs DGXNNODES=2; use: bsub -nnodes 2 -W 0:30 <" in done.stdout + done.stderr


def test_a_trial_whose_log_is_complete_is_judged_and_not_run_again(site: Site) -> None:
    site.run.mkdir(parents=True)
    end = {"key": "run_stop", "metadata": {"status": "aborted", "reason": "target missed"}}
    # killed between the end of the run and its verdict
    (site.run / "result_1.txt").write_text(f":::MLLOG {json.dumps(end)}\n")
    (site.run / "job_state").write_text("started 900\nseed 40\nbegun 1\n")
    code, printed = submitted(site)
    assert code == 0, printed
    assert "has its complete log already, which is judged again" in printed
    assert [line.split(" cleared")[0] for line in seen(site)] == [f"results check --any_settings {site.run}/result_1.txt"]
    assert site.state()[-2:] == ["trial 1 seed 40 code 0", "done 0"]


def test_what_a_config_exports_by_name_enters_the_job(tmp_path: Path, stormbench: Run) -> None:
    config = tmp_path / "config_X_1x1x1.sh"
    facts = "DGXSYSTEM=X DGXNNODES=1 DGXNGPU=1 WALLTIME=30 DATA_FORMAT=dummy STORMBENCH_SCHEDULER=local"
    config.write_text(f"export {facts}\nexport STORMBENCH_EXPORT=MY_KEY MY_KEY='a b'\n")
    done = stormbench("render", config)
    assert done.returncode == 0, done.stderr
    assert "export MY_KEY='a b'\n" in done.stdout
    names = done.stdout.split("\nnames=(\n", 1)[1].split("\n)\n", 1)[0].split()
    assert "MY_KEY" in names


@pytest.mark.parametrize(
    ("runtime", "program", "words"),
    [("pyxis", "enroot", ["remove", "-f", "pyxis_stormbench-"]), ("docker", "docker", ["rm", "-f", "stormbench-"])],
)
def test_the_container_of_this_job_is_removed_at_its_end(
    tmp_path: Path, stormbench: Run, runtime: str, program: str, words: list[str]
) -> None:
    scheduler = "docker" if runtime == "docker" else "slurm"
    config = tmp_path / "config_X_1x1x1.sh"
    facts = "DGXSYSTEM=X DGXNNODES=1 DGXNGPU=1 LOCAL_BATCH_SIZE=1 WALLTIME=30 CONT=image:1 STORMBENCH_CORES_PER_RANK=1"
    config.write_text(f"export {facts} STORMBENCH_SCHEDULER={scheduler} STORMBENCH_RUNTIME={runtime} SBATCH_EXCLUSIVE=exclusive\n")
    done = stormbench("rehearse", config, "--ranks", 1, "--folder", tmp_path / "rehearsal", timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    calls = [json.loads(line) for line in (tmp_path / "rehearsal" / "calls.jsonl").read_text().splitlines()]
    removals = [call["argv"] for call in calls if call["program"] == program and call["argv"][:2] == words[:2]]
    assert removals
    assert all(argv[2].startswith(words[2]) for argv in removals), removals


def seeds_of(site: Site) -> list[str]:
    return [line.split()[3] for line in site.state() if line.startswith("trial ")]


def test_cloudmasks_trials_all_have_the_seed_that_its_rules_fix_unless_the_user_gives_one(site: Site, tmp_path: Path) -> None:
    changed(site, STORMBENCH_BENCHMARK="cloudmask", NEXP="2", SEED="")
    code, printed = submitted(site)
    assert code == 0, printed
    assert seeds_of(site) == ["1234", "1234"]
    checks = [line for line in seen(site) if line.startswith("results check")]
    assert len(checks) == 2, "its logs are judged as DeepCAM's are"
    other = Site(tmp_path / "other", "pbs", tmp_path / "data", trials=2)
    other.environ |= {name: site.environ[name] for name in ("PATH", "SEEN")}
    changed(other, STORMBENCH_BENCHMARK="cloudmask", SEED="50")
    code, printed = submitted(other)
    assert code == 0, printed
    assert seeds_of(other) == ["50", "51"]


def test_cloudmasks_network_test_is_its_own(site: Site) -> None:
    changed(site, STORMBENCH_BENCHMARK="cloudmask", NCCL_TEST="1")
    code, printed = submitted(site)
    assert code == 0, printed
    assert seen(site)[0].startswith("cloudmask allreduce")
