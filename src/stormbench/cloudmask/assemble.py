"""Puts a training run together: the products and their split, the room for patches, the network, and what checkpoints hold."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from stormbench.cloudmask import adam, cache, checkpoint, data, deal, model, split
from stormbench.cloudmask.adam import Adam
from stormbench.cloudmask.cache import Store
from stormbench.cloudmask.checkpoint import State
from stormbench.cloudmask.config import CACHES, NONE, TrainConfig
from stormbench.cloudmask.data import Header, PatchSet
from stormbench.cloudmask.deal import Deal
from stormbench.cloudmask.patches import N_CHANNELS
from stormbench.cloudmask.ranks import World
from stormbench.cloudmask.split import Split
from stormbench.cloudmask.state import Position
from stormbench.cloudmask.step import Steps
from stormbench.core.errors import RunError, StormbenchError, UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The patches of both sides of the split, and whether any of them says that it is no observation."""

    train: PatchSet
    test: PatchSet
    split: Split
    generated: bool
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run works with. `own_test` are this process's patches of the test set."""

    weights: list[tf.Variable]
    adam: Adam
    steps: Steps
    deal: Deal
    train: Store
    test: Store
    own_test: NDArray[np.int64]
    cache: str
    generated: bool


def open_data(config: TrainConfig, origins: Mapping[str, str], world: World, manifest: Path | None) -> Data:
    """Find the products, split them, or reuse the split in `manifest`, rank 0's, and look at the files' headers. Collective.

    Raises:
        UserError: no data, a split that doesn't fit, or a damaged file.
    """
    if config.data_dir is None:
        raise UserError("the folder with the converted products is not given; give it as DATA, or set --data_dir or DATADIR")
    folder = config.data_dir
    paths = world.first(world.together(lambda: data.find(folder) if world.rank == 0 else []))
    decided = world.together(lambda: _split(config, origins, paths, manifest) if world.rank == 0 else None)
    found, note = world.first(decided)  # type: ignore[misc]
    files = data.by_stem(paths)
    chosen = [files[stem] for stem in (*found.train, *found.test)]
    mine = world.together(lambda: [data.read_header(path) for path in chosen[world.rank :: world.processes]])
    headers: list[Header] = [None] * len(chosen)  # type: ignore[list-item]
    for rank, part in enumerate(world.gather(mine)):
        headers[rank :: world.processes] = part
    n_train = len(found.train)
    train, test = world.together(
        lambda: [PatchSet(side, config.patch_size, config.cloud_bits) for side in (headers[:n_train], headers[n_train:])]
    )
    return Data(train=train, test=test, split=found, generated=any(header.generated for header in headers), note=note)


def build(config: TrainConfig, origins: Mapping[str, str], world: World, found: Data) -> tuple[Parts, list[str]]:
    """Return the parts of the run, and a line for each choice that was made. Collective."""
    dealt = Deal(found.train.patches_of_products, config.batch_size * world.size, config.seed)
    first = world.rank * world.replicas
    own_train = np.concatenate([dealt.own_patches(first + device, world.size) for device in range(world.replicas)])
    own_test = deal.share(len(found.test), world.rank, world.processes)
    where, note = _choose_cache(config, origins, world, found, len(own_train) + len(own_test))
    stores = [
        cache.open_store(patch_set, np.sort(own), where, config.cache_dir)
        for patch_set, own in ((found.train, own_train), (found.test, own_test))
    ]
    with world.scope():
        tf.keras.utils.set_random_seed(config.seed % 2**32)
        weights = model.raw_variables(model.unet((None, None, N_CHANNELS), config.width))
        optimizer = Adam(weights, scaled=config.precision == "mixed")
    notes = [world.path, found.note, note]
    if found.generated:
        notes.append("data: generated; it verifies the machinery, and its accuracy says nothing about satellite images")
    parts = Parts(
        weights=weights, adam=optimizer, steps=Steps(config, world, weights, optimizer), deal=dealt, train=stores[0], test=stores[1],
        own_test=own_test, cache=where, generated=found.generated,
    )  # fmt: skip
    return parts, notes


def snapshot(parts: Parts, **about: Any) -> State:
    """Return the run's whole state, for a checkpoint: it is the same on every rank."""
    return State(weights=adam.values(parts.weights), optimizer=adam.values(parts.adam.variables), about=about)


def restore(state: State, parts: Parts) -> Position:
    """Load a checkpoint's state into the parts and return the position."""
    adam.assign(parts.weights, state.weights)
    adam.assign(parts.adam.variables, state.optimizer)
    return Position(**state.about["position"])


def save(parts: Parts, position: Position, config: TrainConfig, folder: Path, about: dict[str, Any], *, best: bool) -> None:
    """Write the checkpoint of a position, and between epochs the models: the last one, with `best` as the best one too.

    Raises:
        RunError: the disk is full or the folder can't be written.
    """
    state = snapshot(parts, position=dataclasses.asdict(position), **about)
    between_epochs = position.step == 0 and bool(position.history)
    names = ["best"] if best else []
    names += ["last"] if between_epochs else []
    names += [f"epoch{position.epoch - 1}"] if between_epochs and config.save_epochs else []
    if names:
        network = _network_to_save(config.width)
        network.set_weights(state.weights)
        first, *rest = (checkpoint.model_path(folder, config.experiment_id, name) for name in names)
        checkpoint.save_model(first, network)
        for path in rest:
            checkpoint.copy_model(first, path)
    # models before the checkpoint: a run that dies between them makes the same ones again
    checkpoint.save(checkpoint.path_of(folder, config.experiment_id), state)


@functools.lru_cache(maxsize=1)
def _network_to_save(width: float) -> Any:
    """Return the network that carries weights into files: outside any strategy, for images of any size, made once for all epochs."""
    return model.unet((None, None, N_CHANNELS), width)


def device_names(world: World) -> list[str]:
    """Return what the run computes on, one entry for each device of rank 0's node."""
    if world.gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
        return [detail.get("device_name", "GPU") for detail in details] * world.local_processes
    return [f"cpu, {tf.config.threading.get_intra_op_parallelism_threads()} threads"] * (world.local_processes * world.replicas)


def explained(error: BaseException, config: TrainConfig) -> BaseException:
    """Return a known failure of TensorFlow as one sentence, anything else as it is."""
    if isinstance(error, StormbenchError):
        return error
    if isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)):
        patch = f"{config.patch_size} x {config.patch_size}"
        return RunError(f"out of memory at local batch {config.batch_size} of {patch} pixels; lower --batch_size")
    return error


def _split(config: TrainConfig, origins: Mapping[str, str], paths: list[Path], manifest: Path | None) -> tuple[Split, str]:
    stems = list(data.by_stem(paths))
    if manifest is not None and manifest.exists():
        reused = split.read(manifest)
        note = split.check_fits(
            manifest, reused, train_split=config.train_split, method=config.split, origins=origins, stems=stems
        )  # fmt: skip
        return reused, note
    made = split.make(
        stems, method=config.split, train_split=config.train_split, seed=config.seed, asked_for="split" in origins
    )
    share = len(made.train) / (len(made.train) + len(made.test))
    unit = {"orbit": "whole orbits", "time": "blocks of time", "random": "single products, as published: neighbours are on both sides"}
    note = f"split: {len(made.train)} products to train on, {len(made.test)} to test, {share:.0%}, by {unit[made.method]}"
    if made.note:
        note += f"; {made.note}"
    if made.duplicates:
        note += f"; {len(made.duplicates)} older versions of the same sensing times are left out"
    return made, note


def _choose_cache(config: TrainConfig, origins: Mapping[str, str], world: World, found: Data, n_patches: int) -> tuple[str, str]:
    """Return where all processes keep patches: the place that every one of them has room for."""
    wanted = config.cache_wanted()
    need = cache.bytes_needed(n_patches, config.patch_size)
    total = len(found.train) + len(found.test)
    choice, note = world.together(
        lambda: cache.choose(
            wanted, asked_for="cache" in origins or wanted == NONE, need=need, need_on_node=need * world.local_processes,
            cache_dir=config.cache_dir, what=f"the {n_patches} of {total} patches that each rank needs",
        )
    )  # fmt: skip
    answers = world.gather((CACHES.index(choice), note))
    # the place of the process with the least room
    rank, note = max(answers, key=lambda answer: answer[0])
    return CACHES[rank], note
