"""Checkpoints: everything that an interrupted run needs to go on to the same numbers, in one file that appears whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from stormbench.core.errors import RunError, UserError
from stormbench.core.files import atomic_path
from stormbench.deepcam.config import TrainConfig

KIND = "stormbench DeepCAM checkpoint"
FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What has to agree between a checkpoint and the run that goes on from it, under the options' names."""

    channels: tuple[int, ...]
    width: float
    optimizer: str
    seed: int
    local_batch_size: int
    gradient_accumulation_frequency: int
    batchnorm_group_size: int
    shuffle_mode: str
    world_size: int
    train_samples: int
    height: int
    width_px: int

    @classmethod
    def of(cls, config: TrainConfig, *, world_size: int, train_samples: int, height: int, width_px: int) -> Identity:
        named = {field.name: getattr(config, field.name) for field in dataclasses.fields(cls) if hasattr(config, field.name)}
        return cls(**named, world_size=world_size, train_samples=train_samples, height=height, width_px=width_px)


ALWAYS = ("channels", "width", "optimizer")
"""A checkpoint of another model or optimizer can't be used at all; the rest matters where an epoch is continued in its middle."""


def save(path: Path, state: dict[str, Any], identity: Identity) -> None:
    """Write `state` to `path` atomically.

    Raises:
        RunError: the disk is full or the folder can't be written; an earlier checkpoint of that name stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, sync=True) as temporary:
            torch.save({"kind": KIND, "format": FORMAT, "identity": dataclasses.asdict(identity), **state}, temporary)
    except RuntimeError as error:
        # torch's zip writer turns a failed write (a full disk) into a RuntimeError without errno
        raise RunError(f"{path}: the checkpoint can't be written ({str(error).splitlines()[0]}); is the disk full?") from error
    except OSError as error:
        raise RunError(f"{path}: the checkpoint can't be written ({(error.strerror or str(error)).lower()})") from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint into CPU memory; tensors and plain values only, so that a file can't run code.

    Raises:
        UserError: there is no such file, it is damaged, or it isn't one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"--checkpoint {path}: there is no such file; give a file below a run folder's checkpoints/") from None
    except Exception as error:  # a file that is none of torch's makes its reader fail in any way
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--checkpoint {path}: not a whole checkpoint of DeepCAM ({detail[:120]}); give another one") from error
    if not isinstance(state, dict) or state.get("kind") != KIND:
        raise UserError(f"--checkpoint {path}: not a checkpoint that `stormbench deepcam train` has written; give another one")
    if state["format"] != FORMAT:
        raise UserError(f"--checkpoint {path}: has format {state['format']}, this version reads {FORMAT}; use the version that wrote it")
    return state


def check_identity(path: Path, state: dict[str, Any], identity: Identity) -> None:
    """Refuse a checkpoint that this run can't continue, naming the option and both values.

    Raises:
        UserError: the model or the optimizer differs or, in the middle of an epoch, the data order would.
    """
    ours = dataclasses.asdict(identity)
    names = ALWAYS if state["step_in_epoch"] == 0 else tuple(ours)
    for name in names:
        theirs = state["identity"].get(name)
        theirs = tuple(theirs) if isinstance(theirs, list) else theirs
        if theirs != ours[name]:
            place = "was written in the middle of an epoch of" if name not in ALWAYS else "is of"
            both = f"{name} {_text(theirs)}, this one has {_text(ours[name])}"
            raise UserError(f"--checkpoint {path}: {place} a run with {both}; make them equal")


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
