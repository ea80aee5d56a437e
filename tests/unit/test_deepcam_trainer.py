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
        trainer = Trainer(config, wire, parts, log=RunLog(None), watch=SignalWatch(), metric=print, save=print, position=Position())
        torch.manual_seed(wire.rank)
        batches = [(torch.randn(1, 16, 32, 32), torch.randint(0, 3, (1, 32, 32))) for _ in range(int(accumulation))]
        parts.network.train()
        trainer._update(iter(batches))
        total = sum(float(p.detach().double().abs().sum()) for p in parts.model.parameters())
        Path(folder, f"rank{wire.rank}").write_text(f"{sum(sent)} {total!r}")
""")


GRADIENTS = textwrap.dedent("""
    import sys
    import torch
    from pathlib import Path
    from stormbench.deepcam import assemble, batchnorm, eager, model
    from stormbench.deepcam.loss import weighted_cross_entropy
    from stormbench.deepcam.wireup import connect

    folder = sys.argv[2]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(2, 16, 32, 48, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 32, 48))
    alone = model.build(width=0.1).double()
    weighted_cross_entropy(alone(images), labels).backward()
    torch.manual_seed(0)
    images, labels = torch.randn(2, 16, 32, 48, dtype=torch.float64), torch.randint(0, 3, (2, 32, 48))
    with connect(shared_folder=Path(folder)) as wire:
        rank = wire.rank
        shared = batchnorm.convert(model.build(width=0.1).double(), 2)
        with eager.lean_wrapper():
            network = assemble.data_parallel(shared, wire)
        weighted_cross_entropy(network(images[rank : rank + 1]), labels[rank : rank + 1]).backward()
        expected = torch.cat([p.grad.flatten() for p in alone.parameters()])
        found = torch.cat([p.grad.flatten() for p in shared.parameters()])
        difference = float((found - expected).norm() / expected.norm())
        Path(folder, f"rank{rank}").write_text(f"{difference!r} {float(expected.norm())!r}")
""")


def test_two_ranks_of_batch_1_with_grouped_batch_norm_have_the_gradients_of_one_rank_of_batch_2(tmp_path: Path) -> None:
    for difference, norm in updated(tmp_path, 1, GRADIENTS):
        assert float(norm) > 0
        assert float(difference) < 1e-9


def updated(tmp_path: Path, accumulation: int, text: str = PROGRAM) -> list[list[str]]:
    program = tmp_path / "program.py"
    program.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(program), str(accumulation), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean_environment(), check=False)
    assert done.returncode == 0, done.stderr
    return [(tmp_path / f"rank{rank}").read_text().split() for rank in range(2)]


def test_inner_micro_batches_send_nothing_and_ranks_with_different_data_end_with_equal_weights(tmp_path: Path) -> None:
    one, other = updated(tmp_path, 4)
    assert one[0] == other[0] == "1"
    assert one[1] == other[1]
