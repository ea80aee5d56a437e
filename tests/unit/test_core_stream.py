"""Results of worker processes while the caller works: all of them, never many at once, and what becomes of failures."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from stormbench.core.errors import RunError, UserError
from stormbench.core.stream import stream


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise UserError("3: must be another number")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_a_mark(path: Path) -> int:
    path.touch()
    return os.getpid()


def sleep_long_after_the_first(number: int) -> int:
    time.sleep(60 if number else 0)
    return number


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_result_comes_once_with_its_item(workers: int) -> None:
    with stream(square, range(20), workers=workers) as results:
        assert sorted(results) == [(number, number * number) for number in range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_items_give_no_results(workers: int) -> None:
    with stream(square, [], workers=workers) as results:
        assert list(results) == []


def test_one_worker_keeps_the_order() -> None:
    with stream(square, range(8), workers=1) as results:
        assert [item for item, _ in results] == list(range(8))


def test_workers_are_other_processes_and_run_only_a_little_ahead(tmp_path: Path) -> None:
    items = [tmp_path / f"{number}" for number in range(12)]
    with stream(leave_a_mark, items, workers=2, ahead=1) as results:
        for taken in range(4):
            _, process = next(results)
            assert process != os.getpid()
            time.sleep(0.5)
            # one in the caller's hands, and room for three more
            assert len(list(tmp_path.iterdir())) <= taken + 3


@pytest.mark.parametrize("workers", [0, 2])
def test_mistake_of_a_worker_is_raised_as_it_was(workers: int) -> None:
    with stream(refuse_three, range(6), workers=workers) as results, pytest.raises(UserError, match="3: must be another number"):
        list(results)


def test_worker_that_dies_is_told_with_its_item_and_signal() -> None:
    with stream(die_at_three, range(6), workers=1) as results, pytest.raises(RunError, match=r"3: the worker process .* SIGKILL"):
        list(results)


def test_leaving_early_ends_the_workers_at_once() -> None:
    started = time.monotonic()
    with stream(sleep_long_after_the_first, range(6), workers=2) as results:
        assert next(results) == (0, 0)
    assert time.monotonic() - started < 30


def test_workers_begin_when_they_are_first_asked(tmp_path: Path) -> None:
    with stream(leave_a_mark, [tmp_path / "mark"], workers=1) as results:
        time.sleep(0.5)
        assert not (tmp_path / "mark").exists()
        assert next(results)[0] == tmp_path / "mark"
