"""Whether the nodes and GPUs that a Science config names are those of the job it runs in."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Mapping

from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.gpus import visible_gpus
from stormbench.cloudmask.science_config import ScienceConfig
from stormbench.core import work
from stormbench.core.errors import UserError
from stormbench.core.launch import Launch, detect
from stormbench.core.progress import say


def check(config: ScienceConfig, origins: Mapping[str, str], training: TrainConfig) -> None:
    """Compare with the job's launch, without TensorFlow, so that a mismatch is told before anything is started.

    What the file doesn't say is whatever the job has.

    Raises:
        UserError: `nodes` or `gpu` is another number than the job's; the sentence has both.
    """
    launch = detect(os.environ)
    nodes = nodes_of(launch)
    if nodes is None:
        say(f"nodes: {config.nodes} could not be compared with the job: {launch.launcher} doesn't tell its nodes, and mpi4py is missing")
    elif nodes != config.nodes and "nodes" in origins:
        raise UserError(_told(origins["nodes"], nodes, "node", launch, "nodes"))
    # with gpu: 0 the run is told to use none
    if config.gpu and "gpu" in origins and (gpus := gpus_of(launch, training)) != config.gpu:
        raise UserError(_told(origins["gpu"], gpus, "GPU", launch, "gpu"))


def _told(origin: str, number: int, what: str, launch: Launch, key: str) -> str:
    job = f"{number} {what}{'' if number == 1 else 's'}"
    return f"{origin}: but the job that this runs in has {job} ({launch.evidence}); set {key}: {number}, or start it on what {key} says"


def nodes_of(launch: Launch) -> int | None:
    """Return how many nodes the launch has, or None where nothing tells. Collective where the launcher doesn't say it."""
    if launch.world_size == 1:
        return 1
    if launch.n_nodes is not None:
        return launch.n_nodes
    try:
        team = work.world()
    except UserError:
        return None
    return len(set(team.gather(socket.gethostname()))) if team.size == launch.world_size else None


def gpus_of(launch: Launch, training: TrainConfig) -> int:
    """Return on how many GPUs the job trains: a rank of Horovod has one, TensorFlow's strategies share all that they see.

    0 where this rank sees none, or trains on the CPU as it was told.
    """
    visible = 0 if training.cpu_only else visible_gpus()
    if not visible:
        return 0
    several = launch.world_size > 1
    has_horovod = importlib.util.find_spec("horovod") is not None
    one_each = training.strategy in ("horovod", "none") or (training.strategy == "auto" and several and has_horovod)
    if one_each:
        return launch.world_size
    return launch.world_size * max(1, visible // (launch.local_size or 1))
