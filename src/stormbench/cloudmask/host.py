"""Sets TensorFlow up for this process: what must be decided before it is imported, and its threads. Imports it only to do so."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from stormbench.cloudmask.config import TrainConfig
from stormbench.core import allocator, garbage
from stormbench.core.errors import UserError
from stormbench.core.launch import Launch
from stormbench.core.provenance import usable_cores

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
MOST_INTER = 2
UNUSED_BY_US = ("matplotlib", "pandas", "scipy", "PIL")
"""What Keras imports where it is installed, for what is never asked of it here: a quarter of the time that the import takes."""
_CHATTER = re.compile(
    r"WARNING: All log messages before absl|[IW]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IW] |To enable the following instructions"
)
"""What TensorFlow says when it is imported, before it heeds TF_CPP_MIN_LOG_LEVEL: information and warnings."""


def prepare(config: TrainConfig, launch: Launch) -> list[str]:
    """Set up and return a line for each choice that was made.

    Raises:
        UserError: TensorFlow is not installed, or was imported before with another choice.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError("tensorflow isn't installed; install stormbench with its cloudmask part: pip install 'stormbench[cloudmask]'")
    if config.onednn is not None:
        wanted = "1" if config.onednn else "0"
        if "tensorflow" in sys.modules and os.environ.get(ONEDNN) != wanted:
            was = f"{ONEDNN}={os.environ[ONEDNN]}" if ONEDNN in os.environ else f"no {ONEDNN}"
            raise UserError(f"--onednn {wanted}: TensorFlow was imported before with {was}; start a process anew")
        os.environ[ONEDNN] = wanted
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if config.cpu_only:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with _without_chatter(), _as_if_absent(*UNUSED_BY_US), garbage.importing("tensorflow"):
        import tensorflow as tf

    why = "TensorFlow's choice" if ONEDNN not in os.environ else "as asked for" if config.onednn is not None else f"by {ONEDNN}"
    notes = [f"oneDNN: {'on' if onednn_in_use() else 'off'}, {why}, TensorFlow {tf.__version__}, Keras {metadata.version('keras')}"]
    intra = config.intra_threads or _share(launch)
    inter = config.inter_threads or min(intra, MOST_INTER)
    tf.config.threading.set_intra_op_parallelism_threads(intra)
    tf.config.threading.set_inter_op_parallelism_threads(inter)
    notes.append(f"compute threads: {intra} in an operation, {inter} operations at a time, for each rank")
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
        notes.append("kernels: only deterministic ones")
    if (config.cpu_only or not tf.config.list_physical_devices("GPU")) and allocator.tune(one_arena=True):
        notes.append("memory: glibc keeps what was freed, so that activations are not mapped anew in each step")
    return notes


def onednn_in_use() -> bool:
    """Whether TensorFlow, which has been imported, uses oneDNN's kernels on CPUs: by itself it does on some processors only."""
    try:
        from tensorflow.python.util import _pywrap_util_port

        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):  # not a part of its interface
        return os.environ.get(ONEDNN, "").strip() in ("1", "true", "TRUE")


def compute_settings() -> dict[str, Any]:
    """Return what TensorFlow computes with on this process's CPU, as it was decided: oneDNN or not, and threads."""
    import tensorflow as tf

    return {
        "onednn": onednn_in_use(),
        "intra_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_threads": tf.config.threading.get_inter_op_parallelism_threads(),
    }


def _share(launch: Launch) -> int:
    """Return this process's share of the cores: all that it is bound to, or where ranks aren't bound, an equal part."""
    cores, total, here = usable_cores(), os.cpu_count() or 1, launch.local_size or 1
    bound = cores * here <= total
    return max(1, cores if bound else cores // here)


@contextlib.contextmanager
def _as_if_absent(*names: str) -> Iterator[None]:
    """Let packages that nothing has imported yet look like ones that aren't installed; afterwards they can be imported as ever."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, ...) is None:
                del sys.modules[name]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold back what native code writes to standard error in this block, and pass on what isn't chatter."""
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            lines = caught.read().splitlines(keepends=True)
            rest = b"".join(line for line in lines if not _CHATTER.match(line.decode(errors="replace")))
            with contextlib.suppress(OSError):
                os.write(2, rest)
