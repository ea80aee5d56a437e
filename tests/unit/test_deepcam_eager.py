"""Training that compiles nothing goes without torch's compiler, and computes what it computes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.conftest import clean_environment

TRAINS = """
import contextlib, hashlib, json, sys, tempfile
import torch
from stormbench.deepcam import eager, optim

lean = sys.argv[1] == "lean"
torch.distributed.init_process_group("gloo", init_method="file://" + tempfile.mktemp(), rank=0, world_size=1)
digests = {}
for name in optim.NAMES:
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    if lean:
        eager.lean_optimizers(torch.optim.Adam, torch.optim.AdamW)
    optimizer = optim.build(name, network.parameters())
    with eager.lean_wrapper() if lean else contextlib.nullcontext():
        wrapped = torch.nn.parallel.DistributedDataParallel(network)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(wrapped(torch.ones(2, 2, 4, 4)).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert all(p.requires_grad and p.grad_fn is None for p in network.parameters())
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    values = [p.detach() for p in network.parameters()] + [v for s in state["state"].values() for v in s.values() if torch.is_tensor(v)]
    digests[name] = hashlib.sha256(b"".join(v.numpy().tobytes() for v in values)).hexdigest()
print(json.dumps({"digests": digests, "compiler": "torch._dynamo" in sys.modules}))
torch._dynamo.config.optimize_ddp
torch.distributed.destroy_process_group()
"""
"""Also that the compiler is there for who asks for it afterwards."""


def trained(way: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", TRAINS, way], capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_compiler_stays_out_and_every_bit_is_the_same() -> None:
    lean, usual = trained("lean"), trained("usual")
    assert (lean["compiler"], usual["compiler"]) == (False, True)
    assert lean["digests"] == usual["digests"] and len(set(lean["digests"].values())) == 3
