"""Chooses how the processes of this launch train together, connects them, and says in one line what was chosen and why."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.meeting import Meeting, free_port, gloo_of_horovod, own_name
from stormbench.cloudmask.ranks import World
from stormbench.cloudmask.strategies import Horovod, Strategy, peer_errors
from stormbench.core.errors import UserError
from stormbench.core.launch import Launch

OPTION = "--strategy"


def connect(config: TrainConfig, launch: Launch) -> World:
    """Return this process's World once all processes of the launch have met. Call it before anything else uses TensorFlow.

    Raises:
        UserError: the strategy is not possible here, or its package is missing.
        RunError: the others did not come.
    """
    gpus = [] if config.cpu_only else tf.config.list_physical_devices("GPU")
    try:
        name, why = _chosen(config, launch, len(gpus))
    except UserError as error:
        error.known_to_all = True  # every rank has the same options and comes to the same
        raise
    own = _own_devices(name, launch, gpus)
    if gpus:
        tf.config.set_visible_devices(own, "GPU")
        for gpu in own:
            tf.config.experimental.set_memory_growth(gpu, True)
    place: dict[str, Any] = {
        "local_rank": launch.local_rank or 0,
        "local_processes": launch.local_size or (launch.world_size if launch.n_nodes in (None, 1) else 1),
        "n_nodes": launch.n_nodes or 1,
    }
    path = f"{name}: {why} ({launch.launcher}: {launch.evidence})"
    if name == "horovod":
        world: World = _horovod(config, launch, gpus=len(own), path=path, **place)
    elif name == "none":
        world = World(gpus=len(own), path=path)
    else:
        devices = _devices(config, own)
        place |= {"replicas": len(devices), "gpus": len(own), "path": path}
        if name == "mirrored":
            world = Strategy(tf.distribute.MirroredStrategy(devices), name, **place)
        else:
            world = _multiworker(config, launch, name, place)
    world.watchdog.timeout_s = config.timeout
    return world


def _chosen(config: TrainConfig, launch: Launch, n_gpus: int) -> tuple[str, str]:
    """Return the strategy and the reason for it."""
    name, several = config.strategy, launch.world_size > 1
    has_horovod = importlib.util.find_spec("horovod") is not None
    if name == "auto":
        if several and has_horovod:
            return "horovod", f"{launch.world_size} ranks, and Horovod is installed"
        if several:
            return "multiworker", f"{launch.world_size} ranks, and Horovod isn't installed"
        if n_gpus > 1 or config.replicas > 1:
            return "mirrored", "one process on several devices"
        return "none", "one process on one device"
    if name == "horovod" and not has_horovod:
        raise UserError(f"{OPTION} horovod: the package horovod isn't installed; install it, or use {OPTION} multiworker, or auto")
    if several and name in ("none", "mirrored"):
        raise UserError(
            f"{OPTION} {name}: is for one process, but {launch.launcher} started {launch.world_size} ({launch.evidence}), and each would "
            f"train a model of its own; use {OPTION} horovod or multiworker, or start one"
        )
    return name, "as asked for"


def _own_devices(name: str, launch: Launch, gpus: list[Any]) -> list[Any]:
    """Return the GPUs that this process takes: one, or with strategies over devices its share of the node's."""
    if not gpus:
        return []
    here, local = launch.local_size or 1, launch.local_rank or 0
    if name in ("horovod", "none"):
        # a launcher that binds devices shows each process its own only
        return [gpus[local % len(gpus)]]
    share = max(1, len(gpus) // here)
    return gpus[local * share % len(gpus) :][:share]


def _devices(config: TrainConfig, own: list[Any]) -> list[str]:
    """Return the names of the devices of this process's replicas; a CPU is divided if several are asked for."""
    wanted = config.replicas
    if own:
        if wanted > len(own):
            raise UserError(f"--replicas {wanted}: this process sees {len(own)} GPUs; lower it, or use --cpu-only")
        return [f"GPU:{number}" for number in range(wanted or len(own))]
    count = max(1, wanted)
    if count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return [f"CPU:{number}" for number in range(count)]


def _horovod(config: TrainConfig, launch: Launch, path: str, **place: Any) -> World:
    # so that a peer that is gone ends the wait, instead of a warning every minute
    seconds = max(2, round(config.timeout))
    os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", str(min(60, seconds // 2)))
    os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(seconds))
    try:
        import horovod.tensorflow as hvd
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{OPTION} horovod: the package horovod is installed but can't be loaded ({first}): it was built for another TensorFlow or "
            f"another MPI; start it with the mpirun of its MPI, build it anew, or use {OPTION} multiworker"
        ) from error
    connected = gloo_of_horovod(launch, config.output_dir, config.timeout) if _needs_gloo(launch, os.environ, hvd.mpi_built()) else None
    with peer_errors(launch.rank):
        hvd.init()
    if connected is not None:
        connected()
    if hvd.size() != launch.world_size or hvd.rank() != launch.rank:
        raise UserError(
            f"{OPTION} horovod: {launch.launcher} says {launch.evidence}, but Horovod sees rank {hvd.rank()} of {hvd.size()}: it was built "
            f"for another MPI, or without one; start it with that MPI's mpirun or with horovodrun, or use {OPTION} multiworker"
        )
    controller = "Gloo" if os.environ.get("HOROVOD_CONTROLLER", "").lower() == "gloo" else "MPI"
    return Horovod(hvd, **place, path=f"{path}, by its {controller} controller")


def _needs_gloo(launch: Launch, environ: Mapping[str, str], mpi_built: bool) -> bool:
    """Whether the ranks have to be told of each other: where no launcher of MPI and no horovodrun does it."""
    if launch.world_size == 1 or launch.launcher == "horovodrun":
        return False
    if not mpi_built or environ.get("HOROVOD_CONTROLLER", "").lower() == "gloo":
        return True
    # srun connects MPI's ranks if told to by --mpi, and then sets one of these
    return launch.launcher in ("slurm", "torchrun") and not (environ.get("PMIX_RANK") or environ.get("PMI_RANK"))


def _multiworker(config: TrainConfig, launch: Launch, name: str, place: dict[str, Any]) -> World:
    cluster = _cluster(os.environ)
    meeting = None
    if cluster is None:
        mine = {"address": f"{own_name(launch)}:{free_port()}"}
        notes = [mine]
        if launch.world_size > 1:
            meeting = Meeting(launch, config.output_dir, config.timeout)
            meeting.leave(mine)
            notes = meeting.read(range(launch.world_size))
        cluster = {"cluster": {"worker": [note["address"] for note in notes]}, "task": {"type": "worker", "index": launch.rank}}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    workers, task = cluster["cluster"].get("worker", []), cluster["task"]
    if task.get("type") != "worker" or (launch.world_size > 1 and (len(workers), task["index"]) != (launch.world_size, launch.rank)):
        raise UserError(
            f"TF_CONFIG names {len(workers)} workers and says {task.get('type')} {task.get('index')}, but {launch.launcher} says "
            f"{launch.evidence}; correct it, or unset it to let the ranks find each other"
        )
    with peer_errors(launch.rank):
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=config.timeout)
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        world = Strategy(strategy, name, rank=task["index"], processes=max(1, len(workers)), **place)
        world.watchdog.timeout_s = config.timeout
        world.gather(0)
    if meeting is not None:
        meeting.end()
    return world


def _cluster(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return TF_CONFIG, as Kubernetes and other launchers set it, if it is there."""
    text = environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        found = json.loads(text)
        found["task"]["index"] = int(found["task"]["index"])
        list(found["cluster"]["worker"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"TF_CONFIG={text[:100]}: must be JSON with cluster.worker, task.type and task.index ({error})") from error
    return found
