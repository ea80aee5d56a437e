"""The options of training: the contract's names, both spellings, and combinations that can't be."""

from __future__ import annotations

import pytest

from stormbench.cloudmask.config import TrainConfig
from stormbench.core.arguments import Parser, add_options, given_flags
from stormbench.core.errors import UserError
from stormbench.core.options import options_of, resolve


def parsed(*words: str, **environ: str) -> TrainConfig:
    parser = Parser(prog="stormbench cloudmask train")
    add_options(parser, TrainConfig)
    return resolve(TrainConfig, given_flags(parser.parse_args(words), TrainConfig), environ)[0]


def test_defaults_are_the_published_ones() -> None:
    config = parsed()
    assert (config.epochs, config.batch_size, config.learning_rate, config.wbce, config.clip_offset) == (30, 32, 0.001, 0.5, 15)
    assert (config.train_split, config.patch_size, config.seed, config.target_accuracy) == (0.8, 256, 1234, 0.9)
    chosen = (config.loss, config.precision, config.strategy, config.split, config.cache_wanted())
    assert chosen == ("weighted", "fp32", "auto", "orbit", "memory")


def test_options_take_hyphens_and_underscores() -> None:
    config = parsed(
        "--cpu-only", "--train_split", "0.7", "--clip-offset=9", "--no-cache", "--batch_size", "8", "--learning-rate", "0.01", "--scale-lr"
    )
    assert (config.cpu_only, config.train_split, config.clip_offset, config.batch_size) == (True, 0.7, 9, 8)
    assert (config.learning_rate, config.scale_lr, config.cache_wanted()) == (0.01, True, "none")


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), None), (("--onednn", "auto"), None), (("--onednn", "on"), True), (("--onednn",), True), (("--onednn", "0"), False)],
)
def test_onednn_is_tensorflows_choice_unless_told(words: tuple[str, ...], expected: bool | None) -> None:
    assert parsed(*words).onednn is expected


def test_variables_come_before_defaults_and_after_flags() -> None:
    assert parsed(STORMBENCH_CLOUDMASK_EPOCHS="3").epochs == 3
    assert parsed("--epochs", "4", STORMBENCH_CLOUDMASK_EPOCHS="3").epochs == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--patch-size", "100"), "--patch_size 100: must be a multiple of 8"),
        (("--patch-size", "24"), "--clip_offset 15: leaves nothing of a patch of 24 pixels; use less than 12"),
        (("--patch-size", "32", "--clip-offset", "16"), "--clip_offset 16: leaves nothing of a patch of 32 pixels; use less than 16"),
        (("--no-cache", "--cache", "memory"), "--no_cache true and --cache memory contradict each other"),
        (("--strategy", "horovd"), "must be one of .*did you mean horovod"),
        (("--train_split", "1"), "below 1"),
        (("--onednn", "maybe"), "--onednn maybe: must be on, off or auto"),
        (("--run_tag", "a/b"), "must be a plain file name"),
        (("--epoch", "3"), "did you mean --epochs"),
    ],
)
def test_what_can_not_be_is_refused_in_one_sentence(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        parsed(*words)
    assert "\n" not in str(caught.value)


def test_the_same_place_twice_is_no_contradiction() -> None:
    assert parsed("--no-cache", "--cache", "none").cache_wanted() == "none"


def test_the_weight_of_cloud_counts_for_the_weighted_loss_only() -> None:
    assert parsed("--wbce", "0.25").beta == 0.25
    assert parsed("--wbce", "0.25", "--loss", "bce").beta == 1.0


def test_each_option_has_a_variable_of_its_own() -> None:
    variables = [spec.variable for spec in options_of(TrainConfig)]
    assert len(variables) == len(set(variables))
