"""What a rank's start costs: processor time and modules until a training could begin, as the kit starts it and as the frameworks do.

Each way is run in processes of its own, in turn, and the ratio is that of the medians. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from stormbench.core.tables import markdown_table

END = """
import json, resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, len(sys.modules)]))
"""
OPTIMIZER = """
from stormbench.deepcam import eager, model, optim
import torch
network = model.build(n_channels=16, width=0.05)
"""
MADE = "optim.build('Adam', network.parameters()).zero_grad()\n"
HOST = """
from stormbench.cloudmask import host
from stormbench.cloudmask.config import TrainConfig
from stormbench.core.launch import detect
"""
WAYS = {
    "DeepCAM: torch, network, optimizer": (OPTIMIZER + MADE, OPTIMIZER + "eager.lean_optimizers(torch.optim.Adam)\n" + MADE),
    "CloudMask: TensorFlow": (HOST + "import tensorflow\n", HOST + "host.prepare(TrainConfig(cpu_only=True), detect({}))\n"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = []
    for name, ways in WAYS.items():
        found = [[_measured(way) for way in ways] for _ in range(rounds)]
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
    done = subprocess.run([sys.executable, "-c", way + END], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
