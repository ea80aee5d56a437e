"""The rules on what a config says in other places: its name's tags, sbatch's variables, ADDITIONAL_ARGS, another benchmark, the machine."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from stormbench.job import here
from stormbench.job.findings import ERROR, WARNING, Finding
from stormbench.job.load import load
from tests.mutations import NAME, write_config

Found = Callable[..., tuple[Finding, ...]]
CLOUDMASK = {"STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": "/", "SEED": "1234", "STORMBENCH_CLOUDMASK_BATCH_SIZE": "2"}
GPU16 = {"STORMBENCH_GPU_MEMORY": "16", "DATA_FORMAT": "hdf5", "DATADIR": "/"}


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Findings of the good config with some variables changed, or removed by None, under another name perhaps."""

    def check(name: str = NAME, /, overrides: dict[str, str] | None = None, **changes: str | None) -> tuple[Finding, ...]:
        path = write_config(tmp_path, name, **changes)
        return load(path, {"PATH": os.environ["PATH"]}, overrides).findings

    return check


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config_TEST_2x4x2_gb128.sh", {}), ("config_TEST_2x4x2_GB128_amp.sh", {}),
        ("config_TEST_2x4x2_fp32.sh", {"PRECISION_MODE": "fp32"}),
        ("config_TEST_2x4x2_bf16.sh", {"PRECISION_MODE": "amp-bf16"}), ("config_TEST_2x4x2_deepcam_v2_debug_closed.sh", {}),
        ("config_TEST_2x4x2_cloudmask_fp32_gb16.sh", CLOUDMASK), (NAME, {"SBATCH_GRES": "gpu:a100:4"}),
        (NAME, {"SBATCH_GRES": "gpu:4,nvme:1"}),
        (NAME, {"SBATCH_GRES": "gpu:v100:4(S:0-1)"}), (NAME, {"SBATCH_GRES": "nvme:100"}), (NAME, {"SBATCH_HINT": "nomultithread"}),
        (NAME, {"STORMBENCH_SEEDS": "1 2 3"}), (NAME, {"DATESTAMP": "251125 a;b"}), (NAME, {"STORMBENCH_RUNTIME": "pyxis", "CONT": "/tmp"}),
        (NAME, {"LOCAL_VALIDATION_BATCH_SIZE": "100"}), (NAME, {**GPU16, "LOCAL_BATCH_SIZE": "2"}), (NAME, {"START_LR": ".00155"}),
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_said_of(found: Found, name: str, changes: dict[str, str | None]) -> None:
    assert found(name, **changes) == ()


@pytest.mark.parametrize(
    ("level", "pattern", "name", "changes"),
    [
        # tags
        (ERROR, "the global batch is 128, but the file's name says 2048; .* rename gb2048 to gb128", "config_TEST_2x4x2_gb2048.sh", {}),
        (ERROR, "PRECISION_MODE=amp, but the file's name says fp32; set PRECISION_MODE=fp32", "config_TEST_2x4x2_fp32.sh", {}),
        (ERROR, "PRECISION_MODE=fp32, but the file's name says amp", "config_TEST_2x4x2_amp.sh", {"PRECISION_MODE": "fp32"}),
        (ERROR, "the file's name says cloudmask, but the config is for deepcam", "config_TEST_2x4x2_cloudmask.sh", {}),
        (ERROR, "says deepcam, but the config is for cloudmask", "config_TEST_2x4x2_deepcam.sh", CLOUDMASK),
        (ERROR, "the file's name says nersc10", "config_TEST_2x4x2_NERSC10.sh", {}),
        # sbatch
        (ERROR, "SBATCH_GRES=gpu:2: the layout is 4 GPUs per node, .* set SBATCH_GRES=gpu:4", NAME, {"SBATCH_GRES": "gpu:2"}),
        (ERROR, "set SBATCH_GRES=gpu:a100:4", NAME, {"SBATCH_GRES": "nvme:1,gpu:a100:8"}),
        (WARNING, "SBATCH_NODES=2 has no effect: sbatch takes the number of nodes from -N alone", NAME, {"SBATCH_NODES": "2"}),
        (WARNING, "SBATCH_TIMELIMT=2 has no effect: .* did you mean SBATCH_TIMELIMIT", NAME, {"SBATCH_TIMELIMT": "2"}),
        (WARNING, "SBATCH_ACCOUNT=m1: .* use m1_g", "config_Perlmutter_2x4x2.sh", {"DGXSYSTEM": "Perlmutter", "SBATCH_ACCOUNT": "m1"}),
        # values
        (ERROR, "DGXNNODES='  ': is blank, but set", NAME, {"DGXNNODES": "  "}),
        (ERROR, "NEXP=' ': is blank, but set", NAME, {"NEXP": " "}),
        (ERROR, "STORMBENCH_MOUNTS=data:/d: data:/d must be SRC:DST", NAME, {"STORMBENCH_MOUNTS": "data:/d"}),
        (ERROR, "STORMBENCH_MOUNTS=/a: /a must be SRC:DST", NAME, {"STORMBENCH_MOUNTS": "/a"}),
        (ERROR, "STORMBENCH_MOUNTS=/a:b: /a:b must be SRC:DST", NAME, {"STORMBENCH_MOUNTS": "/a:b"}),
        (ERROR, "DATESTAMP=../x: must be a plain file name", NAME, {"DATESTAMP": "../x"}),
        (ERROR, "DATESTAMP=2025/11: must be a plain file name", NAME, {"DATESTAMP": "2025/11"}),
        (ERROR, "CONT=a b: no registry has an image with ' '", NAME, {"STORMBENCH_RUNTIME": "pyxis", "CONT": "a b"}),
        (ERROR, "CONT=r/i;x: no registry has an image with ';'", NAME, {"STORMBENCH_RUNTIME": "apptainer", "CONT": "r/i;x"}),
        (ERROR, "2 is given twice", NAME, {"STORMBENCH_SEEDS": "1 2 2"}),
        (ERROR, "names core 300, but .* are 0 to 63; name cores of the node", NAME, {"STORMBENCH_RANK_CORES": "0-15 16-31 32-47 48-300"}),
        (WARNING, "names core 64, but .* are 0 to 63; numbers above", NAME, {"STORMBENCH_RANK_CORES": "0-15 16-31 32-47 48-64"}),
        (ERROR, "24:00:01 is above the 720 minutes that", NAME, {"WALLTIME": "24:00:01", "SBATCH_TIMELIMIT": None}),
        (ERROR, "MIN_EPOCHS=60: above MAX_EPOCHS=50; raise MAX_EPOCHS or lower MIN_EPOCHS", NAME, {"MIN_EPOCHS": "60"}),
        # memory
        (ERROR, "LOCAL_VALIDATION_BATCH_SIZE=5000: needs about .* set LOCAL_VALIDATION_BATCH_SIZE to at most", NAME,
         {"LOCAL_VALIDATION_BATCH_SIZE": "5000"}),
        (WARNING, "LOCAL_BATCH_SIZE=4: EPCC found at most 2 to fit on Cirrus's GPUs of 16 GB", NAME, {**GPU16, "LOCAL_BATCH_SIZE": "4"}),
        # ADDITIONAL_ARGS
        (ERROR, "^--start_lr 1 in ADDITIONAL_ARGS: above 0.055,", NAME, {"ADDITIONAL_ARGS": "--start_lr 1"}),
        (ERROR, "^--min_epochs 60 in ADDITIONAL_ARGS: above MAX_EPOCHS=50", NAME, {"ADDITIONAL_ARGS": "--min_epochs 60"}),
        # schedules
        (WARNING, "^LR_SCHEDULE_TYPE=multistep: .* has cosine_annealing with LR_T_MAX=9000", NAME,
         {"LR_SCHEDULE_TYPE": "multistep", "LR_MILESTONES": "800"}),
        (WARNING, "^LR_SCHEDULE_TYPE=multistep: without LR_MILESTONES the rate never decays", NAME, {"LR_SCHEDULE_TYPE": "multistep"}),
        # cloudmask
        (ERROR, r"global batch 16000, 8 ranks x .*=2000, is above the 15520 training patches \(0.8 of 19400\)", "config_TEST_2x4x2000.sh",
         {**CLOUDMASK, "STORMBENCH_CLOUDMASK_BATCH_SIZE": "2000", "STORMBENCH_GPU_MEMORY": "0"}),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_breach_is_told_once(found: Found, level: str, pattern: str, name: str, changes: dict[str, str | None]) -> None:
    assert [finding.level for finding in found(name, **changes) if re.search(pattern, finding.text)] == [level]


def test_the_highest_rate_is_allowed_as_it_is_printed(found: Found) -> None:
    assert [finding.level for finding in found(START_LR="0.055") if "START_LR" in finding.text] == [WARNING]
    assert [finding.level for finding in found(START_LR="0.0550001") if "above 0.055," in finding.text] == [ERROR]


def test_another_benchmarks_hyperparameters_are_nobodys_choice(found: Found) -> None:
    other = {"STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": "/"}
    (finding,) = found(overrides=other)
    assert (finding.level, "the hyperparameters are cloudmask's defaults" in finding.text) == (WARNING, True)
    assert found(overrides=other, STORMBENCH_CLOUDMASK_BATCH_SIZE="16") == ()


def test_too_large_a_batch_for_the_other_benchmark_is_only_worth_a_warning(found: Found) -> None:
    changes = {"DGXNNODES": "200", "SBATCH_GPUS": "800", "STORMBENCH_LIMITS": None}
    told = found("config_TEST_200x4x2.sh", {"STORMBENCH_BENCHMARK": "cloudmask", "DATADIR": "/"}, **changes)
    assert [finding.level for finding in told if "training patches" in finding.text] == [WARNING]


def test_bash_need_not_stumble_over_a_value_that_has_its_own_finding(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(write_config(tmp_path, DGXNNODES="two").read_text() + '[ "$DGXNNODES" -ge 1 ] || export NEXP=2\n[ x -ge 1 ] || :\n')
    told = [finding.text for finding in load(path, {"PATH": os.environ["PATH"]}).findings]
    assert [text for text in told if "integer expression" in text] == [text for text in told if text.startswith("[: x:")] != []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("BATCH_SIZE", "LOCAL_BATCH_SIZE"), ("LEARNING_RATE", "START_LR"), ("EPOCHS", "MAX_EPOCHS"), ("DATA_DIR", "DATADIR"),
     ("STORMBENCH_GPUS", "STORMBENCH_GPUS_PER_NODE"), ("batch_size", "LOCAL_BATCH_SIZE"),
     ("LR_MILESTONE", "LR_MILESTONES")],
)  # fmt: skip
def test_what_other_kits_call_it_is_understood(found: Found, name: str, meant: str) -> None:
    (finding,) = [finding for finding in found(**{name: "1"}) if "not a variable" in finding.text]
    assert finding.text == f"{name} is not a variable of this kit; did you mean {meant}?"


def test_an_optimizer_in_small_letters_is_understood(found: Found) -> None:
    assert [finding.text for finding in found(OPTIMIZER="lamb")] == ["OPTIMIZER=lamb: must be one of Adam, AdamW, LAMB; did you mean LAMB?"]


HOSTS = "127.0.0.1 localhost\n10.0.0.5 login05.frontier.olcf.ornl.gov login05 # the node\n10.0.0.6 login06.elsewhere.org login06\n"


@pytest.mark.parametrize(
    ("host", "hosts", "resolver", "environ", "more"),
    [
        ("login05", HOSTS, "", {}, "login05.frontier.olcf.ornl.gov"),
        ("login05", "", "search frontier.olcf.ornl.gov olcf.ornl.gov\nnameserver 1.2.3.4\n", {}, "login05.frontier.olcf.ornl.gov"),
        ("login05", "", "", {"LMOD_SYSTEM_NAME": "frontier"}, "login05.frontier"),
        ("login07", "", "", {"NERSC_HOST": "perlmutter"}, "login07.perlmutter"),
        ("LN01.archer2.ac.uk", "", "", {}, "ln01"),
    ],
)
def test_a_node_knows_its_full_name_without_a_name_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, hosts: str, resolver: str, environ: dict[str, str], more: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    for function in ("getfqdn", "gethostbyname", "getaddrinfo", "gethostbyaddr"):
        monkeypatch.setattr(socket, function, None)
    monkeypatch.setattr(here, "HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(here, "RESOLVER", tmp_path / "resolv.conf")
    (tmp_path / "hosts").write_text(hosts)
    (tmp_path / "resolv.conf").write_text(resolver)
    names = here.names(environ)
    assert {host.lower(), more} <= names
    assert "login06.elsewhere.org" not in names


def test_a_path_is_an_error_where_only_the_full_name_tells_the_machine(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"STORMBENCH_HOSTS": "*.Frontier", "STORMBENCH_VENV": "/nonexistent"}
    monkeypatch.setattr(socket, "gethostname", lambda: "login05")
    assert [finding.level for finding in found(**changes)] == [WARNING]
    monkeypatch.setenv("LMOD_SYSTEM_NAME", "frontier")
    assert [finding.level for finding in found(**changes)] == [ERROR]
