"""Checkpoints, from which an interrupted run goes on to the same numbers, and models in Keras' own format.

The same weights give the same bytes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.core.checkpoints import previous
from stormbench.core.errors import UserError
from stormbench.core.files import PARTIAL_SUFFIX, atomic_path, reported_os_errors

KIND = "stormbench CloudMask checkpoint"
FORMAT = 1
PREFIX = "cloudmask"
SUFFIX = ".npz"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """A run's whole state: the weights, the optimizer's variables, and plain values."""

    weights: list[NDArray[Any]]
    optimizer: list[NDArray[Any]]
    about: dict[str, Any]
    """`position`, `identity`, `log_bytes` and `log_open`."""


def path_of(folder: Path, experiment_id: int) -> Path:
    """Return the file of a trial's newest checkpoint in the run folder's checkpoints/."""
    return folder / f"{PREFIX}_{experiment_id}{SUFFIX}"


def model_path(folder: Path, experiment_id: int, which: str) -> Path:
    """Return the file of a model: `best`, `last`, or `epoch<n>`."""
    return folder / f"{PREFIX}_{experiment_id}_{which}.keras"


def save(path: Path, state: State) -> None:
    """Write a checkpoint atomically; what was there is kept as the previous one.

    Raises:
        RunError: the disk is full or the folder can't be written; earlier checkpoints stay.
    """
    arrays: dict[str, Any] = {f"weight_{number}": array for number, array in enumerate(state.weights)}
    arrays |= {f"optimizer_{number}": array for number, array in enumerate(state.optimizer)}
    text = json.dumps({"kind": KIND, "format": FORMAT, **state.about})
    arrays["about"] = np.frombuffer(text.encode(), np.uint8)
    with reported_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, sync=True) as temporary:
        with open(temporary, "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        if path.exists():
            # a reader that comes between the two renames finds the previous one
            path.replace(previous(path))


def load(path: Path) -> State:
    """Read a checkpoint; numbers and JSON only, so that a file can't run code.

    Raises:
        UserError: there is no such file, it is damaged, or it isn't one of ours.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(bytes(file["about"]).decode()) if "about" in file.files else {}
            lists = [
                [file[f"{name}_{number}"] for number in range(sum(key.startswith(f"{name}_") for key in file.files))]
                for name in ("weight", "optimizer")
            ]
    except FileNotFoundError:
        raise UserError(f"--checkpoint {path}: there is no such file; give a file below a run folder's checkpoints/") from None
    except Exception as error:  # a file that is none of numpy's makes its reader fail in any way
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--checkpoint {path}: not a whole checkpoint of CloudMask ({detail[:120]}); give another one") from error
    if not isinstance(about, dict) or about.pop("kind", None) != KIND:
        raise UserError(f"--checkpoint {path}: not a checkpoint that `stormbench cloudmask train` has written; give another one")
    if about.pop("format") != FORMAT:
        raise UserError(f"--checkpoint {path}: is of another format, this version reads {FORMAT}; use the version that wrote it")
    return State(weights=lists[0], optimizer=lists[1], about=about)


def clear_partial(folder: Path, experiment_id: int) -> None:
    """Remove what a killed run left of files that it was writing. Call it only with the trial's lock."""
    for stale in folder.glob(f".{PREFIX}_{experiment_id}[._]*{PARTIAL_SUFFIX}"):
        stale.unlink(missing_ok=True)


def save_model(path: Path, model: Any) -> None:
    """Write a model in Keras' own format, atomically, and without the times that Keras and zip put into it.

    Raises:
        RunError: the disk is full or the folder can't be written.
    """
    # Keras goes by a file's ending, which an unfinished file doesn't have
    with reported_os_errors(path), tempfile.TemporaryDirectory() as folder:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(folder) / "model.keras"
        model.save(made)
        content = _without_times(made.read_bytes())
    with atomic_path(path, sync=True) as temporary:
        temporary.write_bytes(content)


def copy_model(source: Path, path: Path) -> None:
    """Write a saved model under another name, atomically."""
    content = source.read_bytes()
    with atomic_path(path, sync=True) as temporary:
        temporary.write_bytes(content)


def _without_times(archive: bytes) -> bytes:
    """Return a Keras archive without its times, and with its objects numbered, where Keras writes their addresses in memory."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(target, "w") as result:
        for name in sorted(source.namelist()):
            data = source.read(name)
            if name.endswith(".json"):
                about = json.loads(data)
                about.pop("date_saved", None)
                data = json.dumps(_renumbered(about, {})).encode()
            result.writestr(zipfile.ZipInfo(name, _ZIP_TIME), data)
    return target.getvalue()


def _renumbered(value: Any, numbers: dict[Any, int]) -> Any:
    if isinstance(value, dict):
        return {
            key: numbers.setdefault(item, len(numbers)) if key == "shared_object_id" else _renumbered(item, numbers)
            for key, item in value.items()
        }
    return [_renumbered(item, numbers) for item in value] if isinstance(value, list) else value
