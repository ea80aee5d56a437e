"""The garbage collector: off only while a framework is imported, and never for what is made afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from stormbench.core import garbage


class Knot:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_it_is_off_in_the_block_and_what_was_made_there_is_set_aside() -> None:
    before = gc.get_freeze_count()
    with garbage.importing("no_such_framework"):
        assert not gc.isenabled()
        kept = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(kept)


def test_what_is_made_afterwards_is_collected() -> None:
    with garbage.importing("no_such_framework"):
        pass
    gone = weakref.ref(Knot())
    assert gone() is not None
    gc.collect()
    assert gone() is None


def test_a_failed_import_leaves_it_on() -> None:
    with pytest.raises(ImportError), garbage.importing("no_such_framework"):
        raise ImportError("no such framework")
    assert gc.isenabled()


def test_who_has_imported_the_framework_or_turned_it_off_keeps_it_so() -> None:
    before = gc.get_freeze_count()
    with garbage.importing("sys"):
        assert gc.isenabled()
    gc.disable()
    with garbage.importing("no_such_framework"):
        assert not gc.isenabled()
    assert not gc.isenabled()
    # what was set aside before may still go when nothing refers to it any more
    assert gc.get_freeze_count() <= before


def test_the_program_ends_without_a_look_at_all_but_what_waits_for_the_exit_is_done() -> None:
    program = """
import atexit, gc, sys
from stormbench import cli
atexit.register(lambda: print("left", gc.get_freeze_count() > 1000, gc.isenabled()))
sys.argv = ["stormbench", "--version"]
cli.entry()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["left True True"]
