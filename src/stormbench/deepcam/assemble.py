"""Puts a training run together: data sets, device settings, model, optimizer, and their state in and out of checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import inspect
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from stormbench.core import allocator
from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.provenance import usable_cores
from stormbench.deepcam import batchnorm, eager, model, optim
from stormbench.deepcam.config import FULL_TRAIN_SAMPLES, FULL_VALIDATION_SAMPLES, TrainConfig
from stormbench.deepcam.data import Dataset, open_dataset, stats
from stormbench.deepcam.state import Data, Parts, Position
from stormbench.deepcam.summarize import GENERATED_BY
from stormbench.deepcam.wire import Wire, gather_to_rank0

AUTOCAST_TYPES = {"fp32": None, "amp": torch.float16, "amp-bf16": torch.bfloat16}


def open_data(config: TrainConfig) -> Data:
    """Return the training and the validation set; only headers are read.

    Raises:
        UserError: a folder, stats.h5 or a frame size doesn't fit.
    """
    if config.data_format == "dummy":
        source, generated = "dummy data", True
        sets = [
            open_dataset(
                "dummy", channels=config.channels, length=n, height=config.dummy_height, width=config.dummy_width, seed=config.seed + k
            )
            for k, n in enumerate((config.dummy_train, config.dummy_validation))
        ]
    else:
        assert config.data_dir_prefix is not None
        source = str(config.data_dir_prefix)
        found = stats.read(config.data_dir_prefix / "stats.h5", config.channels)
        generated = is_generated(config.data_dir_prefix)
        try:
            sets = [
                open_dataset(config.data_format, config.data_dir_prefix / part, channels=config.channels, stats=found)
                for part in ("train", "validation")
            ]
        except RunError as error:
            raise UserError(str(error)) from error
    train, validation = sets
    height, width, _ = train.shape
    if height % 16 or width % 16:
        raise UserError(f"{source}: frames are {height} x {width} pixels; the network needs multiples of 16 in both directions")
    if train.shape != validation.shape:
        raise UserError(f"{source}: training frames are {train.shape}, those for validation {validation.shape}; both must be alike")
    return Data(train=train, validation=validation, source=source, generated=generated)


def is_generated(folder: Path) -> bool:
    """Whether a data folder holds generated samples: `synth` says so in stats.h5, which conversion copies, and in synth.json."""
    import h5py

    with h5py.File(folder / "stats.h5", "r", locking=False) as file:
        return GENERATED_BY in file["climate"].attrs or (folder / "synth.json").exists()


def check_headers(dataset: Dataset, wire: Wire) -> None:
    """Look at the headers of this rank's share of the files; what is broken before training is wrong input.

    Raises:
        UserError: the first file that doesn't fit.
    """
    try:
        dataset.check(wire.rank, wire.world_size)
    except RunError as error:
        raise UserError(str(error)) from error


def check_fit(config: TrainConfig, wire: Wire, data: Data) -> None:
    """Refuse what can be known to fail before any training: too few samples, a closed run on another data set, no compiler."""
    batch, n_train, n_validation = config.global_batch_size(wire.world_size), len(data.train), len(data.validation)
    if n_train < batch:
        raise UserError(
            f"{data.source}: {n_train} training samples are fewer than the global batch of {batch} ({wire.world_size} ranks x "
            f"{config.local_batch_size} x {config.gradient_accumulation_frequency}); lower --local_batch_size or use fewer ranks"
        )
    full = (FULL_TRAIN_SAMPLES, FULL_VALIDATION_SAMPLES)
    if config.submission_division == "closed" and (n_train, n_validation) != full:
        raise UserError(
            f"{data.source}: a closed run needs the full {full[0]} training and {full[1]} validation samples, there are "
            f"{n_train} and {n_validation}; set STORMBENCH_SUBMISSION_DIVISION=open"
        )
    compiler = os.environ.get("CXX") or "g++"
    if config.enable_jit and wire.device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"--enable_jit: torch.compile needs the C++ compiler {compiler} on CPUs; install g++, or leave the option out")
    values = config.local_batch_size * config.batchnorm_group_size * (data.train.shape.height // 16) * (data.train.shape.width // 16)
    if values < 2:
        raise UserError(
            f"{data.source}: frames of 16 x 16 pixels leave batch norm one value at --local_batch_size 1; use --local_batch_size 2"
        )
    if wire.world_size % config.batchnorm_group_size:
        raise UserError(f"--batchnorm_group_size {config.batchnorm_group_size}: must divide the {wire.world_size} ranks")


def build(config: TrainConfig, wire: Wire, data: Data) -> tuple[Parts, list[str]]:
    """Return the parts of the run, and a line for each choice of path that was made."""
    notes = [wire.path, _set_threads(config, wire)]
    _set_determinism(config, wire)
    if wire.device.type == "cpu" and allocator.tune():
        notes.append("memory: glibc keeps what was freed, so that activations are not mapped anew in each step")
    torch.manual_seed(config.seed)
    network: torch.nn.Module = model.build(n_channels=len(config.channels), width=config.width).to(wire.device)
    if config.enable_nhwc:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = batchnorm.convert(network, config.batchnorm_group_size, timeout=datetime.timedelta(seconds=config.timeout))
    bare = network
    first, second = config.optimizer_betas
    if not config.enable_jit:
        eager.lean_optimizers(torch.optim.Adam, torch.optim.AdamW)
    optimizer = optim.build(
        config.optimizer, bare.parameters(), lr=config.start_lr, betas=(first, second), weight_decay=config.weight_decay
    )
    notes.append(f"optimizer: {optim.describe(optimizer)}")
    if config.enable_jit:
        bare.compile()
        notes.append("model: compiled by torch.compile")
    if wire.world_size > 1:
        with contextlib.nullcontext() if config.enable_jit else eager.lean_wrapper():
            network = data_parallel(bare, wire)
        _settle_buckets(network, torch.zeros(1, len(config.channels), 32, 32, device=wire.device), compiled=config.enable_jit)
    half = AUTOCAST_TYPES[config.precision_mode]
    parts = Parts(
        model=bare,
        network=network,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(wire.device.type, enabled=half is torch.float16),
        autocast=torch.amp.autocast(wire.device.type, dtype=half or torch.bfloat16, enabled=half is not None),
        data=data,
    )
    if data.generated:
        notes.append("data: generated; it verifies the machinery, and its IoU says nothing about accuracy on climate data")
    return parts, notes


def data_parallel(bare: torch.nn.Module, wire: Wire) -> torch.nn.Module:
    """Wrap the network so that gradients are averaged; running statistics stay each rank's own until validation combines them."""
    wrapper = torch.nn.parallel.DistributedDataParallel
    # torch 2.13 renamed the option
    known = inspect.signature(wrapper.__init__).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    devices = [wire.device.index] if wire.device.type == "cuda" else None
    options: dict[str, Any] = {option: False, "device_ids": devices, "gradient_as_bucket_view": True}
    # torch warns on every rank of weights of one input channel, whose strides have two spellings and one meaning
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return wrapper(bare, **options)


def snapshot(parts: Parts, position: Position, wire: Wire) -> dict[str, Any]:
    """Return the run's whole state, for a checkpoint. Called on every rank: what is each rank's own is gathered."""
    own = [torch.tensor([position.loss_sum, position.waited_s], dtype=torch.float64)]
    own += [buffer.detach().double().flatten().cpu() for buffer in _statistics(parts.model)]
    return {
        "model": parts.model.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "scaler": parts.scaler.state_dict(),
        "position": dataclasses.asdict(position),
        "of_each_rank": gather_to_rank0(wire, torch.cat(own)) if _ranks_differ(position) else None,
        "random": torch.get_rng_state(),
    }


def restore(state: dict[str, Any], parts: Parts, wire: Wire, step: int) -> Position:
    """Load a checkpoint's state into the parts and return the position, with `step` updates of the epoch done.

    On as many ranks as before each gets its own running statistics back, on another number all get the combined ones.
    """
    parts.model.load_state_dict(state["model"])
    parts.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"] and parts.scaler.is_enabled():
        parts.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random"])
    position = Position(**state["position"])
    of_each_rank = state["of_each_rank"]
    if of_each_rank is not None:
        same = len(of_each_rank) == wire.world_size
        values = of_each_rank[wire.rank] if same else _pooled(of_each_rank, _statistics(parts.model))
        position.loss_sum, position.waited_s = values[:2].tolist()
        offset = 2
        for buffer in _statistics(parts.model):
            buffer.copy_(values[offset : offset + buffer.numel()].view_as(buffer))
            offset += buffer.numel()
    if position.step:
        position.loss_sum *= step / position.step
    position.step = step
    return position


def device_names(wire: Wire) -> list[str]:
    """Return what this run computes on, one entry for each rank on rank 0's node."""
    if wire.device.type == "cuda":
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cpu, {torch.get_num_threads()} threads"] * wire.local_size


def explained(error: BaseException, config: TrainConfig, wire: Wire) -> BaseException:
    """Return a known failure of torch as one sentence, anything else as it is."""
    if isinstance(error, StormbenchError):
        return error
    text = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        return RunError(f"out of memory on {wire.device} at local batch {config.local_batch_size}; lower --local_batch_size")
    return error


def _settle_buckets(network: torch.nn.Module, image_nchw: torch.Tensor, *, compiled: bool) -> None:
    """Let the wrapper order its buckets of gradients now, by a pass that leaves no trace.

    It does so after its first backward pass, and over three and more ranks another order rounds sums otherwise: the first
    step after a continuation would differ from the same step of an unbroken run.
    """
    network.eval()
    with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
        network(image_nchw).sum().backward()
    network.zero_grad(set_to_none=True)
    network.train()


def _ranks_differ(position: Position) -> bool:
    """Whether running statistics are each rank's own: validation, between epochs, has made them equal."""
    return bool(position.step) or not position.history or "iou" not in position.history[-1]


def _statistics(network: torch.nn.Module) -> list[torch.Tensor]:
    return [buffer for name, buffer in network.named_buffers() if name.endswith(("running_mean", "running_var"))]


def _pooled(of_each_rank: list[torch.Tensor], buffers: list[torch.Tensor]) -> torch.Tensor:
    """Average the ranks' sums, and combine their running means and variances, which alternate, by the law of total variance."""
    stacked = torch.stack(list(of_each_rank))
    pooled, offset = stacked.mean(0), 2
    for mean, variance in zip(buffers[::2], buffers[1::2], strict=True):
        end = offset + mean.numel()
        spread = (stacked[:, offset:end] - pooled[offset:end]).square().mean(0)
        pooled[end : end + variance.numel()] += spread
        offset = end + variance.numel()
    return pooled


def _set_threads(config: TrainConfig, wire: Wire) -> str:
    """Give each rank its share of the cores, unless it is told otherwise."""
    cores, total = usable_cores(), os.cpu_count() or 1
    # a scheduler that binds ranks leaves each its own cores; otherwise the ranks of a node share what they see
    bound = cores * wire.local_size <= total
    share = max(1, cores if bound else cores // wire.local_size)
    told = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun sets 1 where the user has set nothing
    by_torchrun = told == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    threads = config.num_threads or (int(told) if told.isdigit() and not by_torchrun else 0) or share
    torch.set_num_threads(threads)
    return f"compute threads: {threads} for each rank"


def _set_determinism(config: TrainConfig, wire: Wire) -> None:
    if wire.device.type == "cuda":
        torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
