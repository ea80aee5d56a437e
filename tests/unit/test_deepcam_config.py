"""What holds between DeepCAM's options, and what they refuse, each in one sentence with its origin and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from stormbench.core.arguments import Parser, add_options, given_flags
from stormbench.core.errors import UserError
from stormbench.core.options import resolve
from stormbench.deepcam.config import TrainConfig
from stormbench.deepcam.data.files import find
from stormbench.deepcam.schedule import Schedule
from tests.unit.test_core_mllog import CLOSED

MULTISTEP = 'type="multistep",milestones="800",decay_rate="0.1"'


def config(*words: str, **environ: str) -> TrainConfig:
    parser = Parser(prog="t")
    add_options(parser, TrainConfig)
    return resolve(TrainConfig, given_flags(parser.parse_args(words), TrainConfig), {"DATADIR": "data"} | environ)[0]


def refusal(*words: str, **environ: str) -> str:
    with pytest.raises(UserError) as caught:
        config(*words, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_milestones_without_a_type_are_refused() -> None:
    assert refusal(LR_MILESTONES="800") == (
        "LR_MILESTONES=800: needs LR_SCHEDULE_TYPE (multistep or cosine_annealing), else the rate stays constant; "
        "set it, or leave the milestones out"
    )


@pytest.mark.parametrize(
    ("name", "value"), [("lr_milestones", "800"), ("lr_decay_rate", "0.1"), ("lr_t_max", "9000"), ("lr_eta_min", "0")]
)
def test_no_piece_of_a_schedule_goes_without_its_type(name: str, value: str) -> None:
    assert refusal(**{name.upper(): value}).startswith(f"{name.upper()}={value}: needs LR_SCHEDULE_TYPE ")
    assert refusal(f"--{name}", value).startswith(f"--{name} {value}: needs --lr_schedule_type ")


def test_a_piece_with_its_type_is_a_schedule() -> None:
    expected = Schedule(type="multistep", milestones=(800,))
    assert config(LR_MILESTONES="800", LR_SCHEDULE_TYPE="multistep").schedule() == expected
    assert config("--lr_schedule_type", "multistep", LR_MILESTONES="800").schedule() == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("LR_SCHEDULE_TYPE", "cosine_annealing"), ("LR_MILESTONES", "900"), ("LR_DECAY_RATE", "0.5"), ("LR_T_MAX", "9"), ("LR_ETA_MIN", "1")],
)
def test_two_variables_that_disagree_about_the_schedule_are_refused(name: str, value: str) -> None:
    sentence = refusal(LR_SCHEDULE=MULTISTEP, **{name: value})
    assert sentence == f"{name}={value} and LR_SCHEDULE={MULTISTEP} disagree about the schedule; set only one of them"


def test_two_variables_that_agree_about_the_schedule_are_one() -> None:
    pieces = {"LR_SCHEDULE_TYPE": "multistep", "LR_MILESTONES": "800", "LR_DECAY_RATE": "0.1"}
    assert config(LR_SCHEDULE=MULTISTEP, **pieces).schedule() == Schedule(type="multistep", milestones=(800,))


def test_a_schedule_flag_wins_over_every_variable() -> None:
    pieces = {"LR_SCHEDULE": 'type="cosine_annealing",t_max="5"', "LR_SCHEDULE_TYPE": "cosine_annealing", "LR_T_MAX": "9"}
    assert config("--lr_schedule", MULTISTEP, **pieces).schedule() == Schedule(type="multistep", milestones=(800,))
    assert config("--lr_schedule", MULTISTEP, LR_MILESTONES="5").schedule() == Schedule(type="multistep", milestones=(800,))


def test_two_flags_for_one_schedule_are_refused_by_their_names() -> None:
    sentence = refusal("--lr_schedule", MULTISTEP, "--lr_milestones", "5", LR_SCHEDULE_TYPE="multistep")
    assert sentence == f"--lr_schedule {MULTISTEP} and --lr_milestones 5 both give the schedule; choose one"


@pytest.mark.parametrize("betas", ["0.9 1", "1 0.9", "0.9 1.5"])
def test_betas_stay_below_one(betas: str) -> None:
    assert refusal(OPTIMIZER_BETAS=betas).endswith("must be at least 0, below 1")
    assert config(OPTIMIZER_BETAS="0.9 0.99999999").optimizer_betas == (0.9, 0.99999999)


def test_the_seed_is_refused_with_its_whole_limit() -> None:
    assert refusal(SEED="4294967296") == "SEED=4294967296: must be at least 1, at most 4294967295"


def test_a_closed_run_with_everything_named_is_taken() -> None:
    assert config(**CLOSED).submission_org == "A Centre"


@pytest.mark.parametrize("name", ["submission_org", "submission_platform"])
@pytest.mark.parametrize("value", ["", "  ", "unspecified", "Unspecified"])
def test_a_closed_run_without_a_name_is_refused_however_it_is_left_out(name: str, value: str) -> None:
    variable = f"STORMBENCH_{name.upper()}"
    assert f"a closed run must name {variable}; it is" in refusal(f"--{name}", value, **CLOSED)


@pytest.mark.parametrize("name", ["SUBMISSION_ORG", "SUBMISSION_STATUS", "SUBMISSION_PLATFORM"])
def test_a_closed_run_takes_no_default_for_a_name(name: str) -> None:
    sentence = refusal(**CLOSED | {f"STORMBENCH_{name}": ""})
    assert sentence.endswith(f"a closed run must name STORMBENCH_{name}; it is not set")


def test_a_closed_run_refuses_an_empty_status() -> None:
    assert refusal("--submission_status", "", **CLOSED).startswith("--submission_status: must be one of cloud, onprem")


def test_a_checkpoint_is_a_file_or_auto() -> None:
    assert config().checkpoint is None
    assert config("--checkpoint", "auto").checkpoint == Path("auto")
    assert config(STORMBENCH_CHECKPOINT="some/file.pt").checkpoint == Path("some/file.pt")


@pytest.mark.parametrize(("data_format", "name"), [("hdf5", "data-3.h5"), ("numpy", "data-3.npy"), ("numpy", "label-3.npy")])
def test_a_folder_with_the_name_of_a_data_file_is_refused(tmp_path: Path, data_format: str, name: str) -> None:
    for file in ("data-1.h5", "data-1.npy", "label-1.npy"):
        (tmp_path / file).touch()
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: is a folder, must be a data file; move it out of {tmp_path}"):
        find(tmp_path, data_format)


def test_folders_with_other_names_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "data-1.h5").touch()
    for name in ("old", "data-old", "label-1.h5"):
        (tmp_path / name).mkdir()
    assert find(tmp_path, "hdf5") == [tmp_path / "data-1.h5"]
