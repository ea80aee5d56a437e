"""One weight update over two real ranks: gradients travel once, with the last micro-batch, and every rank ends with equal weights."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.conftest import clean_environment

PROGRAM = textwrap.dedent("""
    import sys
    import torch
    from pathlib import Path
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from stormbench.core.mllog import RunLog
    from stormbench.core.options import resolve
    from stormbench.core.signals import SignalWatch
    from stormbench.deepcam import assemble
    from stormbench.deepcam.config import TrainConfig
    from stormbench.deepcam.state import Position
    from stormbench.deepcam.trainer import Trainer
    from stormbench.deepcam.wireup import connect

    accumulation, folder = sys.argv[1:]
    config, _ = resolve(TrainConfig, {}, {
        "DATA_FORMAT": "dummy", "STORMBENCH_DUMMY_HEIGHT": "32", "STORMBENCH_DUMMY_WIDTH": "32", "STORMBENCH_WIDTH": "0.05",
        "GRADIENT_ACCUMULATION_FREQUENCY": accumulation, "STORMBENCH_NUM_THREADS": "1"})
    with connect(shared_folder=Path(folder)) as wire:
        parts, _ = assemble.build(config, wire, assemble.open_data(config))
        sent = []

        def counted(group, bucket):
            sent.append(bucket.is_last())
            return allreduce_hook(group, bucket)

        parts.network.register_comm_hook(None, counted)
        trainer = Trainer(config, wire, parts, log=RunLog(None), watch=SignalWatch(print), metric=print, save=print, position=Position())
        torch.manual_seed(wire.rank)
        batches = [(torch.randn(1, 16, 32, 32), torch.randint(0, 3, (1, 32, 32))) for _ in range(int(accumulation))]
        parts.network.train()
        trainer._update(iter(batches))
        total = sum(float(p.detach().double().abs().sum()) for p in parts.model.parameters())
        Path(folder, f"rank{wire.rank}").write_text(f"{sum(sent)} {total!r}")
""")


def updated(tmp_path: Path, accumulation: int) -> list[list[str]]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(program), str(accumulation), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean_environment(), check=False)
    assert done.returncode == 0, done.stderr
    return [(tmp_path / f"rank{rank}").read_text().split() for rank in range(2)]


def test_inner_micro_batches_send_nothing(tmp_path: Path) -> None:
    one, other = updated(tmp_path, 4)
    assert one[0] == other[0] == "1"


def test_ranks_with_different_data_end_with_equal_weights(tmp_path: Path) -> None:
    one, other = updated(tmp_path, 1)
    assert one[1] == other[1]
