"""What belongs to a site: the user's own data.sh, the machine's host names, and which workloads a system has configs for."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path

import pytest

from stormbench.job.load import load
from tests.shipped import BARE, CONFIGS, NAMES, ROOT, Exported, sourced


def test_a_config_of_one_system_sources_data_sh_last_and_by_benchmark(shipped: Path, tmp_path: Path, alone: dict[str, Exported]) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(shipped, configs)
    shutil.copy(configs / "data.sh.example", configs / "data.sh")
    deepcam = sourced(configs / "config_DGXA100_16x8x1.sh")
    cloudmask = sourced(configs / "config_Rivanna_1x8x32.sh")
    assert "configs/data.sh" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"DATADIR", "LOGDIR", "CONT", "SBATCH_ACCOUNT"} == set(deepcam) - set(alone["config_DGXA100_16x8x1"])
    assert "deepcam" in deepcam["DATADIR"] and "cloudmask" in cloudmask["DATADIR"]
    mine = sourced(configs / "config_DGXA100_16x8x1.sh", environ={"DATADIR": "/my/data", "SBATCH_ACCOUNT": "mine"})
    assert (mine["DATADIR"], mine["SBATCH_ACCOUNT"], mine["LOGDIR"]) == ("/my/data", "mine", deepcam["LOGDIR"])


def test_the_example_copied_as_it_is_says_nothing_of_this_machine(shipped: Path, tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(shipped, configs)
    shutil.copy(configs / "data.sh.example", configs / "data.sh")
    for name in NAMES:
        exported = sourced(configs / f"{name}.sh")
        own = {"DATADIR", "LOGDIR", "CONT", "SBATCH_ACCOUNT"} & set(exported)
        assert ("SBATCH_ACCOUNT" in own) == (exported["STORMBENCH_SCHEDULER"] == "slurm")
        assert "CONT" not in own or exported["STORMBENCH_RUNTIME"] != "none"
        assert not own or exported["DGXSYSTEM"] != "local"
        if exported["DGXSYSTEM"] == "local":
            assert [str(finding) for finding in load(configs / f"{name}.sh", BARE).errors] == []


@pytest.mark.parametrize(
    ("system", "hosts"),
    [("Perlmutter", ["login07.chn.perlmutter.nersc.gov", "nid001234.chn.perlmutter.nersc.gov", "login07.perlmutter"]),
     ("Frontier", ["login05.frontier.olcf.ornl.gov", "login05.frontier", "frontier00083"]),
     ("Summit", ["login1.summit.olcf.ornl.gov", "batch5.summit.olcf.ornl.gov"]), ("ARCHER2", ["ln01", "uan01", "dvn02"]),
     ("ARCHER2GPU", ["ln04"]), ("CirrusGPU", ["cirrus-login1", "r1i0n32"]), ("Rivanna", ["udc-ba34-28j"]),
     ("Polaris", ["polaris-login-02", "x3001c0s19b1n0.hsn.cm.polaris.alcf.anl.gov"])],
)  # fmt: skip
def test_a_system_knows_the_host_names_that_are_public(system: str, hosts: list[str], alone: dict[str, Exported]) -> None:
    for name, exported in alone.items():
        patterns = exported.get("STORMBENCH_HOSTS", "").split()
        matched = [host for host in hosts if any(fnmatch.fnmatchcase(host, pattern) for pattern in patterns)]
        family = {"ARCHER2": "ARCHER2", "ARCHER2GPU": "ARCHER2"}
        own = name.split("_")[1]
        assert matched == (hosts if family.get(own, own) == family.get(system, system) else [])


def test_both_workloads_are_shipped_where_they_make_sense(alone: dict[str, Exported]) -> None:
    both = ("DGXA100", "DGX", "DGX2", "Perlmutter", "Rivanna", "PEARL", "local")
    shipped = {(exported["DGXSYSTEM"], exported["STORMBENCH_BENCHMARK"]) for exported in alone.values()}
    assert {(system, benchmark) for system in both for benchmark in ("deepcam", "cloudmask")} <= shipped


def test_cloudmask_runs_follow_the_published_recipe(alone: dict[str, Exported]) -> None:
    for name, exported in alone.items():
        if exported["STORMBENCH_BENCHMARK"] == "cloudmask" and "_demo" not in name:
            recipe = {
                "BATCH_SIZE": "32", "EPOCHS": "30", "LEARNING_RATE": "0.001", "TRAIN_SPLIT": "0.8", "CLIP_OFFSET": "15", "SCALE_LR": "0",
            }  # fmt: skip
            assert {key: exported[f"STORMBENCH_CLOUDMASK_{key}"] for key in recipe} == recipe, name


def test_a_system_without_a_config_says_why() -> None:
    assert "SCARF (STFC) has none, because" in (CONFIGS / "README.md").read_text(encoding="utf-8")


def test_data_sh_has_the_last_word_over_the_system(shipped: Path, tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(shipped, configs)
    (configs / "data.sh").write_text("export SBATCH_PARTITION=mine SBATCH_QOS=debug\n", encoding="utf-8")
    exported = sourced(configs / "config_Perlmutter_256x4x2_nersc10.sh", configs / "config_DGXA100_16x8x1.sh")
    assert (exported["SBATCH_PARTITION"], exported["SBATCH_QOS"]) == ("mine", "debug")
