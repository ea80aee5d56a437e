"""What a rank's start and end cost: processor time and modules of one that gets ready to train and leaves, as the kit does it and as usual.

Each way is run in processes of its own, in turn, and the ratio is that of the medians. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from stormbench.core.tables import markdown_table

END = """
import sys
print(len(sys.modules), flush=True)
"""
LEAVE = """
from stormbench.core import garbage
garbage.leave()
"""
OPTIMIZER = """
from stormbench.deepcam import eager, model, optim
network = model.build(n_channels=16, width=0.05)
"""
LEAN = """
from stormbench.core import garbage
with garbage.importing("torch"):
    import torch
"""
MADE = "optim.build('Adam', network.parameters()).zero_grad()\n"
HOST = """
from stormbench.cloudmask import host
from stormbench.cloudmask.config import TrainConfig
from stormbench.core.launch import detect
"""
WAYS = {
    "DeepCAM: torch, network, optimizer": (
        "import torch\n" + OPTIMIZER + MADE, LEAN + OPTIMIZER + "eager.lean_optimizers(torch.optim.Adam)\n" + MADE
    ),
    "CloudMask: TensorFlow": (HOST + "import tensorflow\n", HOST + "host.prepare(TrainConfig(cpu_only=True), detect({}))\n"),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = []
    for name, ways in WAYS.items():
        found = [[_measured(ways[0] + END), _measured(ways[1] + END + LEAVE)] for _ in range(rounds)]
        usual, ours = ([statistics.median(values) for values in zip(*one, strict=True)] for one in zip(*found, strict=True))
        rows.append(
            {
                "start of": name, "usual, s": f"{usual[0]:.2f}", "here, s": f"{ours[0]:.2f}", "ratio": f"{usual[0] / ours[0]:.2f}",
                "modules, usual": f"{usual[1]:.0f}", "modules, here": f"{ours[1]:.0f}",
            }
        )  # fmt: skip
    print(f"Processor time of one process, median of {rounds}")
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
    return 0


def _measured(way: str) -> list[float]:
    """Return the seconds of processor time from the process's start to its very end, and the modules it had imported."""
    process = subprocess.Popen([sys.executable, "-c", way], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    modules = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return [used.ru_utime + used.ru_stime, int(modules)]


if __name__ == "__main__":
    sys.exit(main())
