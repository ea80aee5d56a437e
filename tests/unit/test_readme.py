"""The README's table of options is the declarations' own, and what it names exists."""

import re
from pathlib import Path

from stormbench.cli import GROUPS
from stormbench.variables import markdown_rows, table_rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_of_variables_is_current() -> None:
    shown = README.split("<!-- variables -->\n", 1)[1].split("\n<!-- end of variables -->", 1)[0].strip()
    assert shown == markdown_rows(table_rows()), "renew it: make readme"


def test_every_script_that_the_readme_names_exists() -> None:
    names = set(re.findall(r"\b(?:benchmarks|configs)/[\w.-]+\.(?:py|sh)\b", README))
    assert names
    # the user's own, made from its example
    for name in names - {"configs/data.sh"}:
        assert (ROOT / name).is_file(), name


def test_the_two_commands_come_first() -> None:
    first_screen = README.splitlines()[:15]
    assert any("make demo" in line for line in first_screen)
    assert any("make test" in line for line in first_screen)


def test_every_command_it_shows_is_one_that_exists() -> None:
    groups = set(re.findall(r"^ {4}stormbench (\w+)", README, re.MULTILINE))
    assert groups
    assert groups <= GROUPS.keys()
