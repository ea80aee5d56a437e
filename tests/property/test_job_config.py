"""Whatever is done to a config, `stormbench check` answers with sentences, each at its place, and never with a traceback."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stormbench.core.errors import EXIT_DONE, EXIT_USER
from stormbench.job import check
from tests.mutations import GOOD, MUTATORS, NAME, Mutator, Spoiled, spoil, text_of

Checked = Callable[[Spoiled], tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def checked() -> Iterator[Checked]:
    """Check a spoiled config in this process, in a folder and an environment of its own: exit code, lines told, lines printed."""
    before, here = dict(os.environ), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.clear()
        os.environ["PATH"] = before["PATH"]
        os.chdir(folder)

        def run(spoiled: Spoiled) -> tuple[int, list[str], list[str]]:
            path = Path("configs", spoiled.name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(spoiled.content)
            told, printed = io.StringIO(), io.StringIO()
            with contextlib.redirect_stderr(told), contextlib.redirect_stdout(printed):
                code = check.run(argparse.Namespace(configs=[str(path)], benchmark=None, json=False))
            path.unlink()
            return code, told.getvalue().splitlines(), printed.getvalue().splitlines()

        yield run
        os.chdir(here)
        os.environ.update(before)


def assert_clear(spoiled: Spoiled, code: int, told: list[str], printed: list[str]) -> None:
    """A verdict is clear if its exit code agrees with its lines, and each line begins with a place."""
    path = re.escape(check.one_line(f"configs/{spoiled.name}"))
    errors = [line for line in told if not re.match(r"[^ ].*?: warning: ", line)]
    assert all(re.match(rf"{path}(:\d+)?: \S", line) for line in [*told, *printed]), told
    if code == EXIT_DONE:
        assert not errors
        assert len(printed) == 1
        assert ": OK, " in printed[0]
    else:
        assert code == EXIT_USER
        assert errors
        assert not printed


def test_the_good_config_is_good(checked: Checked) -> None:
    code, told, printed = checked(Spoiled(how="not at all", content=text_of(GOOD).encode()))
    assert (code, told) == (EXIT_DONE, [])
    assert printed == [f"configs/{NAME}: OK, deepcam on 2 x 4 = 8 ranks, global batch 128, wall time 02:00:00"]


def test_every_spoiled_config_gets_a_clear_verdict(checked: Checked) -> None:
    # the same ones in each run; benchmarks/check_mutations.py draws more
    for seed in range(500):
        spoiled = spoil(random.Random(seed), text_of(GOOD))
        code, told, printed = checked(spoiled)
        assert_clear(spoiled, code, told, printed)


@pytest.mark.parametrize("mutator", MUTATORS, ids=lambda mutator: mutator.__name__)
def test_a_mutation_gets_the_finding_it_deserves(checked: Checked, mutator: Mutator) -> None:
    for seed in range(8):
        spoiled = mutator(random.Random(seed), text_of(GOOD))
        code, told, printed = checked(spoiled)
        assert_clear(spoiled, code, told, printed)
        if spoiled.deserved is not None:
            assert code == EXIT_USER, (spoiled, told)
            assert any(re.search(spoiled.deserved, line) for line in told), (spoiled, told)
