"""Lets training that compiles nothing start without torch's compiler, whose import takes as long as torch's own.

Optimizers and DistributedDataParallel import `torch._dynamo` for one purpose: to stay out of the graphs that torch.compile traces. Where
nothing is traced, each rank is spared some 800 modules, which matters most where thousands of ranks read them from one file system
at once. What is computed is the same to the bit. Where torch isn't built as it is expected here, all stays as torch has it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

COMPILER = "torch._dynamo"
_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Of torch.optim.Optimizer: each only calls the method that it wraps, outside of any trace."""


def lean_optimizers(*kinds: type[torch.optim.Optimizer]) -> None:
    """Take the wrappers that import the compiler off all optimizers, and off the steps of `kinds`, of which none may have been made yet."""
    if COMPILER in sys.modules:
        return
    for name in _METHODS:
        setattr(torch.optim.Optimizer, name, inspect.unwrap(getattr(torch.optim.Optimizer, name)))
    for kind in kinds:
        step: Callable[..., Any] = inspect.unwrap(kind.step)
        if step is not kind.step:
            # the wrapper's other task: no gradient is recorded of the update, as `differentiable` is never asked for
            kind.step = torch.no_grad()(step)  # type: ignore[method-assign]


@contextlib.contextmanager
def lean_wrapper() -> Iterator[None]:
    """Make DistributedDataParallel without the compiler, of which it only asks whether a Python reducer is configured."""
    wrapper: Any = torch.nn.parallel.DistributedDataParallel
    if COMPILER in sys.modules:
        yield
        return
    enter = getattr(wrapper, "_inside_ddp_forward", None)
    if enter is not None and inspect.isgeneratorfunction(inspect.unwrap(enter)):
        wrapper._inside_ddp_forward = contextlib.contextmanager(inspect.unwrap(enter))
    # older releases of torch ask in another place
    config = _StandIn(f"{COMPILER}.config", _get_optimize_ddp_mode=_unchanged_mode)
    utils = _StandIn(f"{COMPILER}.utils", get_optimize_ddp_mode=_unchanged_mode)
    stand_in: Any = _StandIn(COMPILER, config=config, utils=utils)
    torch._dynamo = stand_in
    try:
        yield
    finally:
        if vars(torch).get("_dynamo") is stand_in:
            del torch._dynamo


class _StandIn:
    """Stands for a module: answers what it knows, and has the module imported for all else."""

    def __init__(self, name: str, **known: object) -> None:
        vars(self).update(known, _name=name)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


def _unchanged_mode() -> str:
    """Return what torch's configuration says where nobody has changed it."""
    return "ddp_optimizer"
