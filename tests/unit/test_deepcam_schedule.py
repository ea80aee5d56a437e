"""The learning rate of each step, against torch's schedulers, and the text forms of a schedule."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from stormbench.core.errors import UserError
from stormbench.core.options import option, resolve
from stormbench.deepcam.schedule import Schedule, learning_rate, parse, parse_milestones


def torch_rates(make, start_lr, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=start_lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_without_a_schedule_the_rate_stays():
    assert [learning_rate(step, 0.003) for step in (0, 1, 10**6)] == [0.003] * 3


def test_warmup_with_factor_1_rises_from_0_and_reaches_the_rate_at_its_last_step():
    assert [learning_rate(step, 0.4, warmup_steps=4) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rel=1e-15)
    assert learning_rate(399, 0.0055, warmup_steps=400) == 0.0055


def test_warmup_with_a_factor_rises_from_the_start_rate_to_the_factor_times_it():
    rates = [learning_rate(step, 1.0, warmup_steps=4, warmup_factor=3.0) for step in range(6)]
    assert rates == pytest.approx([1.5, 2.0, 2.5, 3.0, 3.0, 3.0], rel=1e-15)


def test_a_warmup_of_one_step_is_at_the_target_at_once():
    assert learning_rate(0, 0.1, warmup_steps=1, warmup_factor=2.0) == 0.2


def test_the_factor_has_no_effect_without_warmup():
    assert learning_rate(0, 0.1, warmup_steps=0, warmup_factor=8.0) == 0.1


def test_multistep_equals_torch():
    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7, 8], 0.3), 0.02, 12)
    found = [learning_rate(step, 0.02, "multistep", milestones=(3, 7, 8), decay_rate=0.3) for step in range(12)]
    assert found == pytest.approx(expected, rel=1e-14)


def test_cosine_equals_torch_over_a_whole_period_and_beyond():
    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10, eta_min=1e-4), 0.02, 33)
    found = [learning_rate(step, 0.02, "cosine_annealing", t_max=10, eta_min=1e-4) for step in range(33)]
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("schedule", [{"type": "multistep", "milestones": (2, 5)}, {"type": "cosine_annealing", "t_max": 9}])
def test_the_schedule_counts_from_the_end_of_warmup_and_starts_from_its_rate(schedule):
    after = [learning_rate(100 + k, 0.01, warmup_steps=100, warmup_factor=4.0, **schedule) for k in range(20)]
    assert after == [learning_rate(k, 0.04, **schedule) for k in range(20)]


def test_an_unknown_type_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean multistep"):
        learning_rate(0, 0.1, "multi_step")


def test_cosine_without_a_period_is_refused():
    with pytest.raises(UserError, match="t_max"):
        learning_rate(0, 0.1, "cosine_annealing")


def test_the_form_of_the_hyperparameter_table_is_read_with_and_without_its_quotes():
    expected = Schedule(type="multistep", milestones=(5000, 10000), decay_rate=0.1)
    assert parse('type="multistep",milestones="5000 10000",decay_rate="0.1"') == expected
    assert parse("type=multistep,milestones=5000 10000,decay_rate=0.1") == expected
    assert parse(" type='multistep' , decay_rate = 0.1 , milestones='5000: 10000' ") == expected


def test_cosine_is_read_with_its_period_in_either_case():
    expected = Schedule(type="cosine_annealing", t_max=9000, eta_min=0.0)
    assert parse('type="cosine_annealing",t_max="9000",eta_min="0.0"') == expected
    assert parse("type=cosine_annealing,T_max=9000") == expected


@pytest.mark.parametrize("text", ["5000 10000", "5000:10000", " 5000 : 10000 ", "5000: 10000"])
def test_milestones_are_separated_by_spaces_or_colons(text):
    assert parse_milestones(text) == (5000, 10000)


def test_milestones_may_be_empty():
    assert parse_milestones("") == ()
    assert parse('type="multistep",milestones="",decay_rate="0.1"').milestones == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "type="),
        ("multistep", "'multistep'"),
        ("milestones=5,decay_rate=0.1", "no type"),
        ("type=multistp,milestones=5", "did you mean multistep"),
        ("type=multistep,milestones=5,decay=0.1", "did you mean decay_rate"),
        ("type=multistep,milestones=5,t_max=3", "t_max does not belong"),
        ("type=multistep,decay_rate=0.1", "no milestones"),
        ("type=multistep,milestones=5,milestones=6", "milestones is given twice"),
        ("type=multistep,milestones=5,", "''"),
        ("type=multistep,,milestones=5", "',milestones=5'"),
        ("type=multistep,milestones=5 seven", "'seven'"),
        ("type=multistep,milestones=5.5", "'5.5'"),
        ("type=multistep,milestones=1_000", "'1_000'"),
        ('type=multistep,milestones="5,7"', "'5,7'"),
        ('type=multistep,milestones="5 7', "milestones="),
        ("type=multistep,milestones=7 5", "5 comes after 7"),
        ("type=multistep,milestones=5 5", "5 is given twice"),
        ("type=multistep,milestones=0 5", "0 must be at least 1"),
        ("type=multistep,milestones=-5", "-5 must be at least 1"),
        ("type=multistep,milestones=5,decay_rate=0", "decay_rate 0 must be above 0"),
        ("type=multistep,milestones=5,decay_rate=1.5", "decay_rate 1.5"),
        ("type=multistep,milestones=5,decay_rate=nan", "'nan'"),
        ("type=multistep,milestones=5,decay_rate=", "decay_rate: ''"),
        ("type=cosine_annealing", "t_max"),
        ("type=cosine_annealing,t_max=0", "t_max 0"),
        ("type=cosine_annealing,t_max=9e3", "'9e3'"),
        ("type=cosine_annealing,t_max=9,eta_min=-1", "eta_min -1"),
        ("type=cosine_annealing,t_max=9,eta_min=inf", "'inf'"),
        ("type=cosine_annealing,t_max=" + "9" * 400 + ".", "t_max"),
    ],
)
def test_a_bad_schedule_is_one_sentence_that_names_the_bad_piece(text, named):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_option_that_a_bad_schedule_came_from_is_named_first():
    @dataclasses.dataclass(frozen=True)
    class Config:
        milestones: tuple[int, ...] = option((), variable="LR_MILESTONES", group="g", help="h", convert=parse_milestones)

    with pytest.raises(UserError, match=r"^LR_MILESTONES=5 x: milestones: 'x'"):
        resolve(Config, {}, {"LR_MILESTONES": "5 x"})


def test_a_schedule_built_from_pieces_is_checked_too():
    wrong = ({"type": "cosine_annealing"}, {"type": "step"}, {"milestones": (3, 3)}, {"decay_rate": 2.0}, {"t_max": 0}, {"eta_min": -1.0})
    for bad in wrong:
        with pytest.raises(UserError):
            Schedule(**bad)


def test_parsing_a_schedule_loads_no_torch():
    code = "import sys, stormbench.deepcam.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
