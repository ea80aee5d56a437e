"""Checkpoints: everything that an interrupted run needs to go on to the same numbers, in one file that appears whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stormbench.core.checkpoints import previous
from stormbench.core.errors import RunError, UserError
from stormbench.core.files import PARTIAL_SUFFIX, atomic_path

KIND = "stormbench DeepCAM checkpoint"
FORMAT = 1


def file_name(prefix: str, experiment_id: int) -> str:
    """Return the name of a trial's newest checkpoint."""
    return f"{prefix}_{experiment_id}.pt"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically; what was there is kept as the previous one.

    Raises:
        RunError: the disk is full or the folder can't be written; earlier checkpoints stay.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, sync=True) as temporary:
            torch.save({"kind": KIND, "format": FORMAT, **state}, temporary)
            if path.exists():
                # a reader that comes between the two renames finds the previous one
                path.replace(previous(path))
    except RuntimeError as error:
        # torch's zip writer turns a failed write (a full disk) into a RuntimeError without errno
        raise RunError(f"{path}: the checkpoint can't be written ({str(error).splitlines()[0]}); is the disk full?") from error
    except OSError as error:
        raise RunError(f"{path}: the checkpoint can't be written ({(error.strerror or str(error)).lower()})") from error


def clear_partial(path: Path) -> None:
    """Remove what a killed run left of a checkpoint that it was writing. Call it only with the trial's lock."""
    for stale in path.parent.glob(f".{path.name}.*{PARTIAL_SUFFIX}"):
        stale.unlink(missing_ok=True)


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
