"""Spoils a good config in ten thousand ways and checks each: counts of the verdicts, tracebacks (there must be none), time per check.

    python benchmarks/check_mutations.py                 a few minutes on two cores
    python benchmarks/check_mutations.py --count 500     some seconds

Then times `stormbench check` and `stormbench render` of a shipped config as processes, as a user waits for them.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.mutations import GOOD, spoil, text_of  # noqa: E402

from stormbench.core.errors import EXIT_DONE  # noqa: E402
from stormbench.core.tables import text_table  # noqa: E402
from stormbench.job.check import examine, one_line  # noqa: E402
from stormbench.job.findings import ERROR  # noqa: E402

COMMAND_LIMIT_S = 0.5
REPEATS = 7
CONFIG = "configs/config_DGXA100_16x8x1.sh"


def check_spoiled(count: int, seed: int) -> tuple[list[list[object]], list[float], int]:
    """Check `count` spoiled configs; returns rows of (mutation, refused, warned, accepted), seconds of each check, and tracebacks."""
    chance, text = random.Random(seed), text_of(GOOD)
    verdicts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    seconds, tracebacks = [], 0
    for _ in range(count):
        spoiled = spoil(chance, text)
        path = Path(spoiled.name)
        path.write_bytes(spoiled.content)
        start = time.perf_counter()
        try:
            _, findings = examine(str(path), {})
        except Exception:
            tracebacks += 1
            print(f"{spoiled}\n{traceback.format_exc()}", file=sys.stderr)
            continue
        finally:
            seconds.append(time.perf_counter() - start)
            path.unlink()
        verdict = "refused" if any(finding.level == ERROR for finding in findings) else "warned" if findings else "accepted"
        verdicts[spoiled.how if ", " not in spoiled.how else "several"][verdict] += 1
        lines = [one_line(str(finding)) for finding in findings]
        if not all(": " in line for line in lines):
            tracebacks += 1
            print(f"a finding without a place: {lines}", file=sys.stderr)
    rows = [[how, found["refused"], found["warned"], found["accepted"]] for how, found in sorted(verdicts.items())]
    return rows, seconds, tracebacks


LARGE = (
    "export DGXSYSTEM=X DGXNNODES={nodes} DGXNGPU=8 LOCAL_BATCH_SIZE=1 WALLTIME=60 STORMBENCH_SCHEDULER=slurm OPTIMIZER=LAMB\n"
    "export DATA_FORMAT=dummy STORMBENCH_DUMMY_TRAIN=100000 STORMBENCH_CORES_PER_NODE=64 START_LR=0.004\n"
)


def time_command(*words: str) -> float:
    """Return the median seconds of a command as a process."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "stormbench", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        if done.returncode != EXIT_DONE:
            sys.exit(f"stormbench {' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return statistics.median(seconds)


def main() -> int:
    """Print both tables; the exit code is 1 if there was a traceback or a command took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # a spoiled config may name files; they belong in a folder of their own
        os.chdir(folder)
        rows, seconds, tracebacks = check_spoiled(arguments.count, arguments.seed)
        os.chdir(ROOT)
    total = ["all", *(sum(int(str(row[column])) for row in rows) for column in (1, 2, 3))]
    print(text_table(["mutation", "refused", "warned", "accepted"], [*rows, total]))
    milliseconds = sorted(1000 * value for value in seconds)
    times = f"median {statistics.median(milliseconds):.1f} ms, slowest {milliseconds[-1]:.0f} ms a check"
    print(f"\n{len(seconds)} checks, {tracebacks} tracebacks; {times}")
    with tempfile.TemporaryDirectory() as folder:
        commands = {"check": ("check", CONFIG), "render": ("render", CONFIG, "-o", str(Path(folder, "job.sub")))}
        for nodes in (2, 4096):
            large = Path(folder, f"config_X_{nodes}x8x1.sh")
            large.write_text(LARGE.format(nodes=nodes))
            commands[f"render, {nodes} nodes x 8 ranks"] = ("render", str(large), "-o", str(Path(folder, "job.sub")))
        medians = {name: time_command(*words) for name, words in commands.items()}
    print(text_table(["command", "median s", "limit s"], [[f"stormbench {name}", took, COMMAND_LIMIT_S] for name, took in medians.items()]))
    return 1 if tracebacks or max(medians.values()) > COMMAND_LIMIT_S else 0


if __name__ == "__main__":
    sys.exit(main())
