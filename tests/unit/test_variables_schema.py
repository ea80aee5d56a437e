"""The JSON schema: it takes what shell configs really export, and refuses most of what `stormbench check` would refuse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stormbench.job.source import source_config
from stormbench.variables import schema

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("config_*.sh"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_a_shipped_config_exports_is_valid(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    exported = source_config(path, {}, {"PATH": os.environ["PATH"]}).exported
    assert [error.message for error in validator.iter_errors(exported)] == []


@pytest.mark.parametrize(
    "values",
    [
        {"NCCL_TEST": "1"}, {"NCCL_TEST": False}, {"NCCL_DEBUG": "INFO"}, {"NEXP": "5"}, {"NEXP": 5}, {"NEXP": ""},
        {"START_LR": "1.55E-3"}, {"START_LR": ".002"}, {"START_LR": 0.002}, {"OPTIMIZER_BETAS": "[0.9, 0.999]"},
        {"OPTIMIZER_BETAS": [0.9, 0.999]}, {"LR_MILESTONES": "1100 4096"}, {"LR_MILESTONES": "1100:4096"}, {"WALLTIME": "90"},
        {"WALLTIME": "1-12:00:00"}, {"CLEAR_CACHES": "Yes"},
        {"LR_SCHEDULE": 'type="multistep",milestones="5000 10000",decay_rate="0.1"'},
        {"LR_SCHEDULE": "t_max=90,type=cosine_annealing"}, {"STORMBENCH_LIMITS": "short:nodes=32,minutes=20 long:minutes=5760"},
        {"STORMBENCH_RANK_CORES": "0-7,64-71 8-15"}, {"STORMBENCH_MOUNTS": "/a:/b /c:/d:ro"},
        {"STORMBENCH_EXPORT": "FOO BAR", "FOO": "1"}, {"STORMBENCH_EXPORT": ["FOO"], "FOO": "1"}, {"STAGE_BATCH_SIZE": "8"},
        {"RUN_TAG": "a b"}, {"DATASTAMP": "x", "STORMBENCH_EXPORT": "DATASTAMP"}, {"OPTIMIZER": "LAMB"},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_model_takes_is_valid(validator: jsonschema.Draft202012Validator, values: dict[str, Any]) -> None:
    assert [error.message for error in validator.iter_errors(values)] == []


@pytest.mark.parametrize(
    "values",
    [
        {"NCCL_TEST": "maybe"}, {"NCCL_DEBUG": 1}, {"NEXP": "0"}, {"NEXP": " "}, {"NEXP": 0}, {"NEXP": "5.0"}, {"NEXP": "five"},
        {"NEXP": "12345"}, {"NEXP": "5\u00a0"}, {"START_LR": "-1"}, {"START_LR": "nan"}, {"START_LR": "1,5"},
        {"OPTIMIZER_BETAS": "0.9"}, {"OPTIMIZER_BETAS": [0.9]}, {"LR_MILESTONES": "a"}, {"LR_MILESTONES": "0"}, {"WALLTIME": "1:30"},
        {"WALLTIME": "0"}, {"WALLTIME": "x"}, {"CLEAR_CACHES": "2"}, {"LR_SCHEDULE": "multistep"}, {"STORMBENCH_LIMITS": "junk"},
        {"STORMBENCH_LIMITS": ["junk"]}, {"STORMBENCH_RANK_CORES": "a-b"}, {"STORMBENCH_MOUNTS": "data:/d"}, {"OPTIMIZER": "lamb"},
        {"FOO": "1"}, {"RUN_TAG": "a/b"}, {"DATESTAMP": "../x"}, {"TARGET_IOU": "0"}, {"STORMBENCH_CLOUDMASK_LEARNING_RATE": "0.0e5"},
        {"STORMBENCH_EXPORT": "", "FOO": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_what_the_model_refuses_is_invalid(validator: jsonschema.Draft202012Validator, values: dict[str, Any]) -> None:
    assert not validator.is_valid(values)
