"""Measures CloudMask training on this machine's CPU: patches/s of our loop against plain Keras `fit`, with and without jit_compile.

    python benchmarks/cloudmask_train.py                    the full network, batch 4 of 256 x 256, about fifteen minutes on two cores
    python benchmarks/cloudmask_train.py --patch-size 128 --rounds 5                                    about four minutes

Every way is a process of its own, since TensorFlow decides when it is imported which kernels it uses; they take turns, one working
while the others wait, so that a busy machine slows them alike. Plain is the same network, loss and optimizer, on patches that are in
memory, with the kernels that TensorFlow chooses by itself, and once more with those of oneDNN. Ours is `cloudmask train` from the
patches in its cache to the updated weights, scores included. Patches are random numbers: they show speed, and nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stormbench.core.provenance import describe_host
from stormbench.core.tables import markdown_table

OURS, PLAIN, PLAIN_JIT, PLAIN_ONEDNN = "ours", "Keras fit", "Keras fit, jit_compile", "Keras fit, oneDNN on"
CLIP = 15
BETA = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured: a round of each way trains on `steps` batches."""

    patch_size: int
    batch: int
    steps: int
    threads: int
    width: float


def make_plain(case: Case, jit: bool) -> Callable[[], None]:
    """Return one round of Keras' own training."""
    import numpy as np
    import tensorflow as tf

    from stormbench.cloudmask.loss import weighted_binary_cross_entropy
    from stormbench.cloudmask.model import unet

    function = weighted_binary_cross_entropy(BETA)

    def clipped(y_true: Any, y_pred: Any) -> Any:
        return function(y_true[:, CLIP:-CLIP, CLIP:-CLIP], y_pred[:, CLIP:-CLIP, CLIP:-CLIP])

    model = unet((case.patch_size, case.patch_size, 9), case.width)
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-3), loss=clipped, jit_compile=jit)
    random = np.random.default_rng(0)
    shape = (case.batch * case.steps, case.patch_size, case.patch_size)
    images, labels = random.random((*shape, 9), np.float32), (random.random((*shape, 1)) < 0.5).astype(np.float32)
    return lambda: model.fit(images, labels, batch_size=case.batch, epochs=1, shuffle=False, verbose=0) and None


def make_ours(case: Case) -> Callable[[], None]:
    """Return one round of our training loop's work: batches from the cache, the update, and its scores."""
    import numpy as np

    from stormbench.cloudmask.adam import Adam
    from stormbench.cloudmask.cache import Store
    from stormbench.cloudmask.config import TrainConfig
    from stormbench.cloudmask.loader import Loader
    from stormbench.cloudmask.model import raw_variables, unet
    from stormbench.cloudmask.patches import LABEL, VALID
    from stormbench.cloudmask.ranks import World
    from stormbench.cloudmask.step import Steps

    config = TrainConfig(patch_size=case.patch_size, batch_size=case.batch, clip_offset=CLIP, wbce=BETA, width=case.width)
    random = np.random.default_rng(0)
    shape = (case.batch * case.steps, case.patch_size, case.patch_size)
    images = random.random((*shape, 9), np.float32).astype(np.float16)
    bits = ((random.random(shape) < 0.5) * LABEL + VALID).astype(np.uint8)

    class Patches:
        patch_size = case.patch_size

        def is_day(self, number: int) -> bool:
            return True

    class Filled(Store):
        def patch(self, number: int) -> tuple[Any, Any]:
            return images[number], bits[number]

    weights = raw_variables(unet((None, None, 9), case.width))
    steps = Steps(config, World(), weights, Adam(weights))
    store: Any = Filled(Patches())  # type: ignore[arg-type]
    plan = [[np.arange(case.batch) + case.batch * step] for step in range(case.steps)]

    def round_() -> None:
        with Loader(store, plan, threads=config.data_threads) as loader:
            for _ in plan:
                told = steps.train(loader.next(), np.float32(1e-3), np.zeros(2, np.float32))[0]
            told.numpy()

    return round_


def child(way: str, case: Case) -> None:
    """Work as one of the processes: a round for each line on standard input, its wall and processor seconds on standard output."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if way == OURS:
        from stormbench.cloudmask.config import TrainConfig
        from stormbench.cloudmask.host import prepare
        from stormbench.core.launch import detect

        prepare(TrainConfig(intra_threads=case.threads, cpu_only=True), detect({}))
        work = make_ours(case)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        if way == PLAIN_ONEDNN:
            os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(case.threads)
        tf.config.threading.set_inter_op_parallelism_threads(min(2, case.threads))
        work = make_plain(case, way == PLAIN_JIT)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        work()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]), file=replies, flush=True)


def measure(ways: list[str], case: Case, rounds: int) -> dict[str, list[list[float]]]:
    """Return wall and processor seconds of each round of each way; one round of each goes before to trace and to warm up."""
    environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    environment.pop("TF_ENABLE_ONEDNN_OPTS", None)
    children = {}
    for way in ways:
        command = [sys.executable, __file__, "--child", way, "--case", json.dumps(dataclasses.asdict(case))]
        children[way] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
    took: dict[str, list[list[float]]] = {way: [] for way in ways}
    try:
        for turn in range(rounds + 1):
            for way, process in children.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"{way}: the process ended, perhaps for lack of memory; lower --batch")
                if turn:
                    took[way].append(json.loads(line))
            print(f"round {turn} of {rounds}" + (" (warm-up)" if not turn else ""), file=sys.stderr, flush=True)
    finally:
        for process in children.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    return took


def largest_difference(case: Case) -> float:
    """Return how far our cloud and gradients are from those of the Keras model in float64, relative to the largest of each tensor."""
    import numpy as np
    import tensorflow as tf

    from stormbench.cloudmask import network
    from stormbench.cloudmask.model import raw_variables, unet

    tf.keras.backend.set_floatx("float64")
    model = unet((None, None, 9), case.width)
    tf.keras.backend.set_floatx("float32")
    image = tf.constant(np.random.default_rng(0).normal(size=(1, 64, 64, 9)))
    weights = raw_variables(model)
    results = []
    for ours in (True, False):
        with tf.GradientTape() as tape:
            if ours:
                cloud = tf.sigmoid(network.logits(weights, image, 0, tf.float64))
            else:
                cloud = model(image)[..., 0]
            value = tf.reduce_sum(cloud**2)
        results.append([cloud, *tape.gradient(value, weights)])
    return max(float(tf.reduce_max(tf.abs(a - b)) / tf.reduce_max(tf.abs(b))) for a, b in zip(*results, strict=True))


def table(took: dict[str, list[list[float]]], case: Case) -> tuple[str, float]:
    """Return the table, and how many times as fast as the fastest plain way of the same kernels' choice ours is, by wall time."""
    patches = case.batch * case.steps
    median = {way: statistics.median(wall for wall, _ in rounds) for way, rounds in took.items()}
    processor = {way: statistics.median(cpu for _, cpu in rounds) for way, rounds in took.items()}
    rows = []
    for way, rounds in took.items():
        walls = [wall for wall, _ in rounds]
        rows.append(
            [way, f"{patches / median[way]:.2f}", f"{patches / max(walls):.2f} to {patches / min(walls):.2f}",
             f"{median[way] / median[OURS]:.2f}", f"{processor[way] / processor[OURS]:.2f}"]
        )  # fmt: skip
    best = min(seconds for way, seconds in median.items() if way in (PLAIN, PLAIN_JIT))
    headers = ["way", "patches/s (median)", "range", "time against ours", "processor time against ours"]
    return markdown_table(headers, rows), best / median[OURS]


def main() -> int:
    """Return 0, or 1 where ours is slower than the faster plain way, or computes another function."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch-size", type=int, default=256, help="edge of a patch in pixels, more than 30")
    parser.add_argument("--batch", type=int, default=4, help="patches of an update")
    parser.add_argument("--steps", type=int, default=3, help="updates of a round")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each way")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--width", type=float, default=1.0, help="scales the network's channels")
    parser.add_argument("--output", type=Path, help="write the table as Markdown to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, Case(**json.loads(args.case)))
        return 0
    case = Case(patch_size=args.patch_size, batch=args.batch, steps=args.steps, threads=args.threads, width=args.width)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    difference = largest_difference(case)
    print(f"largest difference from the Keras layers in float64: {difference:.1e} (limit 1e-09)", flush=True)
    took = measure([OURS, PLAIN, PLAIN_JIT, PLAIN_ONEDNN], case, args.rounds)
    made, ratio = table(took, case)
    head = f"{describe_host()}; batch {case.batch} of {case.patch_size} x {case.patch_size}, float32, {case.threads} threads"
    said = f"{head}\n\n{made}\n\nOurs against the faster of plain Keras fit with and without jit_compile: {ratio:.2f} times as fast."
    print(said)
    if args.output:
        args.output.write_text(said + "\n")
    return int(ratio < 1 or difference > 1e-9)


if __name__ == "__main__":
    sys.exit(main())
