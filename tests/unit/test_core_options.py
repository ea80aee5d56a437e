"""Options: one declaration gives flag, variable, default, bounds, table and schema."""

import dataclasses
import json
from pathlib import Path

import pytest

from stormbench.core.arguments import Parser, add_options, given_flags
from stormbench.core.errors import UserError
from stormbench.core.options import option, options_of, resolve
from stormbench.core.schema import json_schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    count: int = option(3, variable="COUNT", group="g", minimum=1, maximum=9, unit="things", help="How many.")
    rate: float = option(0.5, variable="RATE", group="g", above=0, help="A rate.")
    fast: bool = option(False, variable="FAST", group="g", help="Be fast.")
    name: str | None = option(None, variable="NAME", group="g", choices=("red", "green"), help="A name.")
    betas: tuple[float, ...] = option((0.9, 0.999), variable="BETAS", group="g", count=2, minimum=0, help="Two.")
    share: float = option(0.5, variable="SHARE", group="g", minimum=0, below=1, help="A share.")
    large: int = option(1, variable="LARGE", group="g", maximum=2**32 - 1, help="Large.")
    fine: float = option(0.1, variable="FINE", group="g", maximum=0.9999999, help="Fine.")
    any: float = option(0.1, variable="ANY", group="g", help="Any.")
    place: Path = option(Path("here"), variable="PLACE", group="g", help="A place.")


FOREIGN = ", and U+{} in it is no blank to a shell; retype it"


def parsed(*words: str, **environ: str) -> Sample:
    parser = Parser(prog="t")
    add_options(parser, Sample)
    return resolve(Sample, given_flags(parser.parse_args(words), Sample), environ)[0]


def test_without_flags_or_variables_the_defaults_hold() -> None:
    assert parsed() == Sample()


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default() -> None:
    assert parsed("--count", "5", COUNT="7").count == 5
    assert parsed(COUNT="7").count == 7


def test_an_empty_variable_counts_as_unset() -> None:
    assert parsed(COUNT="", NAME=" ").count == 3


def test_origins_tell_where_each_value_came_from() -> None:
    _, origins = resolve(Sample, {"count": "5"}, {"RATE": "2", "COUNT": "9"})
    assert origins == {"count": "--count 5", "rate": "RATE=2"}


@pytest.mark.parametrize("spelling", ["--some_long_name", "--some-long-name", "--some_long-name"])
def test_flags_take_dashes_and_underscores_alike(spelling: str) -> None:
    parser = Parser(prog="t")
    parser.add_argument("--some_long_name", type=int)
    assert parser.parse_args([spelling, "4"]).some_long_name == 4
    assert parser.parse_args([f"{spelling}=5"]).some_long_name == 5


@pytest.mark.parametrize("text", ["0.8 0.9", "0.8,0.9", "[0.8, 0.9]", "0.8:0.9"])
def test_several_numbers_may_be_separated_in_the_usual_ways(text: str) -> None:
    assert parsed(BETAS=text).betas == (0.8, 0.9)
    assert parsed("--betas", *text.split()).betas == (0.8, 0.9)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("ON", True), ("0", False), ("no", False)])
def test_switches_take_words_and_numbers(text: str, value: bool) -> None:
    assert parsed(FAST=text).fast is value
    assert parsed("--fast", text).fast is value


def test_a_bare_switch_is_on() -> None:
    assert parsed("--fast").fast is True


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"COUNT": "0"}, "COUNT=0: must be at least 1, at most 9"),
        ({"COUNT": "10"}, "COUNT=10: must be at least 1, at most 9"),
        ({"COUNT": "2.5"}, "COUNT=2.5: must be a whole number, at least 1, at most 9"),
        ({"COUNT": "two"}, "COUNT=two: must be a whole number, at least 1, at most 9"),
        ({"RATE": "0"}, "RATE=0: must be above 0"),
        ({"RATE": "nan"}, "RATE=nan: must be finite, above 0"),
        ({"RATE": "inf"}, "RATE=inf: must be finite, above 0"),
        ({"ANY": "-1e999"}, "ANY=-1e999: must be finite"),
        ({"SHARE": "1"}, "SHARE=1: must be at least 0, below 1"),
        ({"LARGE": "4294967296"}, "LARGE=4294967296: must be at most 4294967295"),
        ({"FINE": "1"}, "FINE=1: must be at most 0.9999999"),
        ({"LARGE": "1_000"}, "LARGE=1_000: must be a whole number, at most 4294967295"),
        ({"RATE": "1_0.5"}, "RATE=1_0.5: must be a number, above 0"),
        ({"COUNT": "\u0663"}, "COUNT=\u0663: must be a whole number, at least 1, at most 9"),
        ({"FAST": "maybe"}, "FAST=maybe: must be 1 or 0 (true or false)"),
        ({"NAME": "gren"}, "NAME=gren: must be one of red, green; did you mean green?"),
        ({"BETAS": "0.9"}, "BETAS=0.9: needs 2 numbers, 1 given"),
        ({"BETAS": "0.9 x"}, "BETAS=0.9 x: x must be a number, at least 0"),
        ({"BETAS": "0.9 -1"}, "BETAS=0.9 -1: -1 must be at least 0"),
        ({"COUNT": "5\u00a0"}, "COUNT=5\u00a0: must be a whole number, at least 1, at most 9" + FOREIGN.format("00A0")),
        ({"COUNT": "\u3000"}, "COUNT=\u3000: must be a whole number, at least 1, at most 9" + FOREIGN.format("3000")),
        ({"COUNT": "\x1c5"}, "COUNT=\x1c5: must be a whole number, at least 1, at most 9" + FOREIGN.format("001C")),
        ({"RATE": "0.5\u2003"}, "RATE=0.5\u2003: must be a number, above 0" + FOREIGN.format("2003")),
        ({"FAST": "1\u00a0"}, "FAST=1\u00a0: must be 1 or 0 (true or false)" + FOREIGN.format("00A0")),
        ({"BETAS": "0.9\u00a00.99"}, "BETAS=0.9\u00a00.99: must be a number, at least 0" + FOREIGN.format("00A0")),
    ],
)
def test_a_wrong_value_is_one_sentence_with_its_origin_and_limit(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(**environ)
    assert str(caught.value) == sentence


def test_an_unknown_flag_names_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"--cuont is not an option of this command; did you mean --count\?"):
        parsed("--cuont", "3")


def test_the_schema_carries_types_bounds_and_defaults() -> None:
    schema = json_schema(Sample, "t")
    count, betas, share = (schema["properties"][name] for name in ("COUNT", "BETAS", "SHARE"))
    assert count["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 9}
    assert count["anyOf"][1]["type"] == "string"
    assert (count["description"], count["default"]) == ("How many.", 3)
    assert betas["anyOf"][0]["minItems"] == 2
    assert share["anyOf"][0]["exclusiveMaximum"] == 1
    assert "maximum" not in share["anyOf"][0]
    json.dumps(schema)


def test_options_come_in_the_order_of_declaration() -> None:
    names = ["count", "rate", "fast", "name", "betas", "share", "large", "fine", "any", "place"]
    assert [spec.name for spec in options_of(Sample)] == names


@pytest.mark.parametrize("text", ["-1e-3", "-1E5", "-.5", "-5.", "-inf", "-nan", "-2", "-1_0"])
def test_a_negative_number_after_a_flag_is_its_value_and_meets_its_bound(text: str) -> None:
    with pytest.raises(UserError, match=rf"^--rate {text}: must be .*above 0$"):
        parsed("--rate", text)


def test_a_negative_number_among_several_is_one_of_them() -> None:
    with pytest.raises(UserError, match=r"^--betas 0.9 -1e-3: -1e-3 must be at least 0$"):
        parsed("--betas", "0.9", "-1e-3")


def test_a_flag_is_still_no_number() -> None:
    with pytest.raises(UserError, match="-x is not an option of this command"):
        parsed("--fast", "-x")


def test_an_unknown_choice_names_the_nearest_one() -> None:
    parser = Parser(prog="t")
    parser.add_argument("--link", choices=("symlink", "hardlink"))
    with pytest.raises(UserError, match=r"^t: --link symlnk: must be one of symlink, hardlink; did you mean symlink\?$"):
        parser.parse_args(["--link", "symlnk"])


def test_an_unknown_subcommand_names_the_nearest_one() -> None:
    parser = Parser(prog="t")
    parser.add_subparsers().add_parser("train")
    with pytest.raises(UserError, match=r"^t: trian is not a command; did you mean train\?; see t --help$"):
        parser.parse_args(["trian"])
