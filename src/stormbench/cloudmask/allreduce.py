"""CloudMask's part of the all-reduce test of a job: the sums by whatever will carry the gradients, Horovod or TensorFlow's strategies."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stormbench.cloudmask.config import TrainConfig
from stormbench.cloudmask.ranks import World
from stormbench.cloudmask.session import connected
from stormbench.core import allreduce
from stormbench.core.errors import EXIT_DONE
from stormbench.core.files import writable_folder
from stormbench.core.launch import detect
from stormbench.core.options import resolve


def run(arguments: argparse.Namespace) -> int:
    """Sum buffers of 4 kB up to the given size over all ranks; the table comes from rank 0.

    Raises:
        RunError: a sum is wrong, on whatever rank.
    """
    config, origins = resolve(TrainConfig, {}, os.environ)
    config = dataclasses.replace(config, timeout=arguments.timeout)
    # ranks that nothing else has told of each other meet there
    writable_folder(config.output_dir, origins.get("output_dir", "LOGDIR").split("=")[0])
    with connected(config, detect(os.environ)) as (world, _):
        sums: dict[int, Callable[..., list[Any]]] = {}
        rows = allreduce.measure(
            arguments.max_bytes, world.size, lambda n_floats, number: _round(world, sums, n_floats, number),
            lambda flag: bool(world.any(flag)),
        )  # fmt: skip
        if world.rank == 0:
            allreduce.show(world.path, rows)
    return EXIT_DONE


def _round(world: World, sums: dict[int, Callable[..., list[Any]]], n_floats: int, number: int) -> tuple[float, bool]:
    import tensorflow as tf

    if n_floats not in sums:
        # the copy is on the device of its replica, as TensorFlow's collectives want it
        sums[n_floats] = world.compiled(lambda values: world.add_up([tf.identity(values)])[0], [tf.TensorSpec([n_floats], tf.float32)], [])
    first = world.rank * world.replicas
    batches = [(np.full(n_floats, first + device + 1 + number, np.float32),) for device in range(world.replicas)]
    world.any(0)
    begin = time.perf_counter()
    found = [np.asarray(total) for total in sums[n_floats](batches)]
    seconds = time.perf_counter() - begin
    expected = allreduce.expected_sum(world.size, number)
    return seconds, all(np.allclose(total, expected) for total in found)
