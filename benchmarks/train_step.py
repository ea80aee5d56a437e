"""Measures one training step of DeepCAM (forward, loss, backward, optimizer), the default settings against a plain eager build.

    python benchmarks/train_step.py                         CPU: both sizes, about six minutes on two cores
    python benchmarks/train_step.py --sizes 192x288         the small size alone, about one minute
    python benchmarks/train_step.py --output table.md       GPU, where there is one: all modes and batches within --budget-s

Plain is float32, contiguous, eager, torch's convolutions and torch's default AdamW, with the allocator as the system has it; default is
what `deepcam train` does, its setting of the allocator included, which a row of its own leaves out. On the CPU they take turns in one
process, so that a busy machine slows them alike; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stormbench.core import allocator
from stormbench.core.allocator import M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD
from stormbench.core.tables import markdown_table
from stormbench.deepcam import model, optim
from stormbench.deepcam.loss import weighted_cross_entropy

N_CHANNELS = 16
M_MMAP_THRESHOLD = -3
EQUALITY_LIMIT = 1e-12
COMPILE_S = 150
"""What a compiled case may take on a GPU, compilation included, until one has been measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mode:
    """One way to run the step; `half` is the type for autocast, None for float32."""

    name: str
    plain: bool = False
    half: torch.dtype | None = None
    channels_last: bool = False
    compiled: bool = False


PLAIN, DEFAULT = Mode(name="float32 plain eager", plain=True), Mode(name="default")
GPU_MODES = (
    PLAIN,
    Mode(name="amp", half=torch.float16),
    Mode(name="amp-bf16", half=torch.bfloat16),
    Mode(name="amp, channels-last", half=torch.float16, channels_last=True),
    Mode(name="amp-bf16, channels-last", half=torch.bfloat16, channels_last=True),
    Mode(name="amp-bf16, channels-last, compiled", half=torch.bfloat16, channels_last=True, compiled=True),
)


def make_step(mode: Mode, batch: int, height: int, width: int, device: torch.device, scale: float = 1.0) -> Callable[[], None]:
    """Return one training step on random data; `scale` is the network's width."""
    torch.manual_seed(0)
    network = model.build(N_CHANNELS, width=scale).to(device)
    layout = torch.channels_last if mode.channels_last else torch.contiguous_format
    image_nchw = torch.rand(batch, N_CHANNELS, height, width, device=device).contiguous(memory_format=layout)
    label_nhw = torch.randint(0, 3, (batch, height, width), device=device)
    network = (model.plain(network) if mode.plain else network).to(memory_format=layout)
    if mode.plain:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01)
    else:
        optimizer = optim.build("AdamW", network.parameters(), lr=1e-4, weight_decay=0.01)
    if mode.compiled:
        network.compile()
    scaler = torch.amp.GradScaler(device.type, enabled=mode.half is torch.float16)
    autocast = torch.autocast(device.type, dtype=mode.half or torch.bfloat16, enabled=mode.half is not None)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            logits_nchw = network(image_nchw)
        scaler.scale(weighted_cross_entropy(logits_nchw, label_nhw)).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Return the time of one call in s."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def largest_difference(height: int, width: int) -> float:
    """Return the largest float64 difference of outputs, gradients and running statistics between default and plain.

    Each is relative to the largest value of its tensor, or to a thousandth of the largest gradient where that is more: batch norm
    cancels the gradient of ASPP's pooled branch, and nothing but rounding is left of it.
    """
    torch.manual_seed(0)
    ours = model.build(N_CHANNELS).double()
    theirs = model.plain(ours)
    image_nchw, label_nhw = torch.rand(2, N_CHANNELS, height, width, dtype=torch.float64), torch.randint(0, 3, (2, height, width))
    logits = []
    for network in (ours, theirs):
        logits.append(network(image_nchw))
        weighted_cross_entropy(logits[-1], label_nhw).backward()
    floor = 1e-3 * max(parameter.grad.abs().max().item() for parameter in theirs.parameters())
    pairs = [(*(output.detach() for output in logits), 0.0)]
    pairs += [(a.grad, b.grad, floor) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]
    pairs += [(a.double(), b.double(), 0.0) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True)]
    return max(((a - b).abs().max() / max(b.abs().max().item(), least)).item() for a, b, least in pairs)


def compare_on_cpu(sizes: list[tuple[int, int]], rounds: int | None) -> str:
    """Print a row for each size as it is measured; returns the table."""
    rows = []
    for height, width in sizes:
        count = rounds or (15 if height * width < 200_000 else 3)
        steps = {mode: make_step(mode, 1, height, width, torch.device("cpu")) for mode in (PLAIN, DEFAULT)}
        ways = {
            PLAIN.name: (steps[PLAIN], stock),
            "default, stock allocator": (steps[DEFAULT], stock),
            DEFAULT.name: (steps[DEFAULT], allocator.tune),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(count + 1):
            for name, (step, set_allocator) in ways.items():
                set_allocator()
                # a step to fill the caches and the heap as a run of such steps would have left them
                step()
                took = seconds(step)
                if turn:
                    times[name].append(took)
        del steps, ways, step
        gc.collect()
        for name, values in times.items():
            ratio = statistics.median(times[PLAIN.name]) / statistics.median(values)
            rows.append([f"{height} x {width}", name, *spread(values), f"{ratio:.2f}"])
            print("  ".join(rows[-1]), flush=True)
    return markdown_table(["size", "build", "median s", "min to max s", "times as fast"], rows)


def stock() -> None:
    """Put glibc's allocator back to what it does by itself once large blocks have been freed, and hand the heap back.

    malloc.c: the threshold for mapped blocks has then grown to its limit of 32 MiB, and trimming starts at twice that.
    """
    glibc = ctypes.CDLL(None)
    for parameter, value in ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20), (M_TOP_PAD, 128 << 10)):
        glibc.mallopt(parameter, value)
    gc.collect()
    glibc.malloc_trim(0)


def spread(values: list[float]) -> tuple[str, str]:
    """Return median and range in s."""
    return f"{statistics.median(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"


def measure_mode(mode: Mode, batch: int, height: int, width: int, device: torch.device, scale: float, steps: int) -> tuple[float, float]:
    """Return samples/s and peak memory in GiB of one mode on one GPU, from events around `steps` steps after three to warm up."""
    torch.cuda.reset_peak_memory_stats(device)
    step = make_step(mode, batch, height, width, device, scale)
    for _ in range(3):
        step()
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(steps):
        step()
    stop.record()
    torch.cuda.synchronize(device)
    return batch * steps / (start.elapsed_time(stop) / 1e3), torch.cuda.max_memory_allocated(device) / 2**30


def compare_on_gpu(args: argparse.Namespace, device: torch.device) -> str:
    """Print a row for each mode and batch as it is measured, while the budget lasts; returns the table."""
    begin, eager_s, compile_s = time.perf_counter(), 20.0, float(COMPILE_S)
    plain_rate: dict[int, float] = {}
    rows = []
    # compiled cases last, the largest batch first: they cost most of the budget
    cases = [(mode, batch) for batch in args.batches for mode in GPU_MODES if not mode.compiled]
    cases += [(mode, batch) for batch in sorted(args.batches, reverse=True) for mode in GPU_MODES if mode.compiled]
    for mode, batch in cases:
        case = [str(batch), mode.name]
        left = args.budget_s - (time.perf_counter() - begin)
        if left < (compile_s if mode.compiled else eager_s):
            rows.append([*case, "skipped: over the time budget", "", ""])
        else:
            started = time.perf_counter()
            try:
                rate, memory = measure_mode(mode, batch, args.height, args.width_px, device, args.scale, args.rounds or 10)
                if mode.plain:
                    plain_rate[batch] = rate
                ratio = f"{rate / plain_rate[batch]:.2f}" if batch in plain_rate else ""
                rows.append([*case, f"{rate:.2f}", f"{memory:.1f}", ratio])
            except torch.OutOfMemoryError:
                rows.append([*case, "out of memory", "", ""])
            except RuntimeError as error:
                rows.append([*case, f"failed: {str(error).splitlines()[0][:80]}", "", ""])
            took = time.perf_counter() - started
            compile_s, eager_s = (1.2 * took, eager_s) if mode.compiled else (compile_s, max(1.2 * took, 5.0))
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()
        print("  ".join(rows[-1]), flush=True)
    return markdown_table(["local batch", "mode", "samples/s", "peak memory GiB", "times plain eager"], rows)


def machine() -> str:
    """Return processor, threads, GPU and torch version in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [names[0] if names else platform.processor(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}"])


def size(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def main() -> int:
    """Return 0, or 1 where default and plain do not compute the same function."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=[(192, 288), (768, 1152)], metavar="HxW", help="CPU: sizes to measure")
    parser.add_argument("--height", type=int, default=768, help="GPU: image height in pixels")
    parser.add_argument("--width-px", type=int, default=1152, help="GPU: image width in pixels")
    parser.add_argument("--rounds", type=int, help="steps measured of each; default 15 small, 3 large, 10 on a GPU")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="GPU: local batches")
    parser.add_argument("--scale", type=float, default=1.0, help="GPU: width of the network in (0, 1]")
    parser.add_argument("--budget-s", type=float, default=460, help="GPU: no case starts that would pass this many seconds")
    parser.add_argument("--output", type=Path, help="write the table as Markdown to this file")
    args = parser.parse_args()
    print(machine(), flush=True)
    difference = 0.0
    if torch.cuda.is_available():
        table = compare_on_gpu(args, torch.device("cuda"))
    else:
        torch.set_num_threads(args.threads)
        difference = largest_difference(48, 80)
        print(f"largest difference from plain in float64: {difference:.1e} (limit {EQUALITY_LIMIT:.0e})", flush=True)
        table = compare_on_cpu(args.sizes, args.rounds)
    print(table)
    if args.output:
        args.output.write_text(f"{machine()}\n\n{table}\n")
    return int(difference > EQUALITY_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
