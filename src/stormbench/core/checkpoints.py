"""Which checkpoint a run starts from: what both workloads decide alike, whatever their files hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stormbench.core.errors import UserError

AUTO = Path("auto")
"""As the user's choice: the newest checkpoint of this very run, where there is one."""


def previous(path: Path) -> Path:
    """Return where the checkpoint before the newest is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def choose(newest: Path, wanted: Path | None, load: Callable[[Path], Any], *, unfinished: bool) -> tuple[str | None, bool, str]:
    """Return the checkpoint to start from, if any, whether it continues the trial's own log, and a line on it.

    An `unfinished` trial goes on from its `newest` checkpoint, or from the one before where `load` says that it is damaged;
    otherwise the run starts from `wanted`, the user's choice.

    Raises:
        UserError: all checkpoints of the unfinished trial are damaged.
    """
    if unfinished:
        damage = ""
        for path in (newest, previous(newest)):
            if path.exists():
                try:
                    load(path)
                except UserError as error:
                    damage = f"{error}; "
                    continue
                return str(path), True, f"{damage}goes on from {path}"
        if damage:
            raise UserError(f"{damage}no earlier one is whole: give another --run_tag to start anew")
    if wanted is None or wanted == AUTO:
        return None, False, ""
    return str(wanted), False, f"starts from {wanted}"
