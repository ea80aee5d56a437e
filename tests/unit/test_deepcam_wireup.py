"""Wire-up with real processes: torchrun, Open MPI's mpirun, and ranks with srun's variables. Run as a script, this file is a rank.

Ranks under srun's variables are forked from one process that has imported torch already, which saves most of the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stormbench.core.errors import RunError, StormbenchError, UserError
from stormbench.core.launch import LAUNCH_ID, detect
from stormbench.deepcam.host import file_name
from stormbench.deepcam.placement import decide

Result = dict[str, Any]
RunRanks = Callable[..., list[Result]]


def main(work: Path, method: str, timeout_s: float, action: str, number: str) -> int:
    """Be one rank: connect, add up the ranks, and leave what was found in `work`."""
    import torch

    from stormbench.deepcam.wireup import any_rank, connect, from_rank0, gather, sum_over_ranks

    result: Result = {}
    try:
        with connect(method, shared_folder=work / "shared", timeout_s=timeout_s) as wire:
            if action == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            mine = torch.tensor([[wire.rank + 1, 10.0]])
            result = {
                "place": [wire.rank, wire.world_size, wire.local_rank, wire.local_size, wire.n_nodes],
                "sum": sum_over_ranks(wire, mine).tolist(), "kept": mine.tolist(), "any": any_rank(wire, wire.rank),
                "gathered": gather(wire, f"r{wire.rank}"), "from0": from_rank0(wire, {"id": number}),
                "backend": wire.backend, "device": str(wire.device), "path": wire.path,
            }  # fmt: skip
    except StormbenchError as error:
        result = {"error": str(error), "kind": type(error).__name__}
    (work / f"result-{number}.json").write_text(json.dumps(result))
    return 1 if "error" in result else 0


def serve() -> None:
    """Import torch once; for each folder named on standard input, fork the ranks of its ranks.json and wait for them."""
    import torch  # noqa: F401

    for line in sys.stdin:
        work = Path(line.strip())
        children = []
        for number, rank in enumerate(json.loads((work / "ranks.json").read_text())):
            child = os.fork()
            if child == 0:
                code = 70
                try:
                    os.environ.update(rank["environ"])
                    code = main(work, rank["method"], rank["timeout_s"], rank["action"], str(number))
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        print("done", flush=True)


def clean_environ() -> dict[str, str]:
    """Return this process's variables without any that a launcher may have left."""
    prefixes = ("SLURM", "OMPI_", "PMI", "PALS_", "FLUX_", "MASTER_", "TORCHELASTIC", "STORMBENCH_", "GLOO_", "JSM_", "MV2_", "MPI_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes) and name not in names}


def run(work: Path, *command: str) -> dict[str, Result]:
    """Run `command`, which starts this file, and return what each rank found, by its number."""
    process = subprocess.Popen(
        command, env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=90)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    results = {path.stem.removeprefix("result-"): json.loads(path.read_text()) for path in sorted(work.glob("result-*.json"))}
    assert results, output
    return results


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, __file__, "serve"], env=clean_environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run_ranks(server: subprocess.Popen[str], tmp_path: Path) -> RunRanks:
    """Return a function that runs ranks with these variables and returns their results in the same order; a rank that died has none."""

    def start(ranks: list[dict[str, str]], *, timeout_s: float = 30, die: int = -1) -> list[Result]:
        spec = [
            {"environ": rank, "method": "auto", "timeout_s": timeout_s, "action": "die" if number == die else "sum"}
            for number, rank in enumerate(ranks)
        ]
        (tmp_path / "ranks.json").write_text(json.dumps(spec))
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(f"{tmp_path}\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], 90)[0]:
            os.killpg(server.pid, signal.SIGKILL)
            pytest.fail("the ranks hang")
        assert server.stdout.readline() == "done\n"
        results = [tmp_path / f"result-{number}.json" for number in range(len(ranks))]
        return [json.loads(path.read_text()) if path.exists() else {} for path in results]

    return start


def srun(tasks: list[int], *, job: int = 4711, **more: str) -> list[dict[str, str]]:
    """Return the variables of all tasks of a step with so many tasks on each node."""
    n = str(sum(tasks))
    step = {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": "0", "SLURM_NTASKS": n, "SLURM_STEP_NUM_TASKS": n,
            "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, tasks)), "SLURM_STEP_NODELIST": f"unknown[1-{len(tasks)}]", **more}  # fmt: skip
    places = [(node, local) for node, count in enumerate(tasks) for local in range(count)]
    return [
        {**step, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}
        for rank, (node, local) in enumerate(places)
    ]


def assert_summed(results: list[Result]) -> None:
    n = len(results)
    for rank, result in enumerate(sorted(results, key=lambda result: result.get("place", [0])[0])):
        assert "error" not in result, result
        assert result["place"][:2] == [rank, n]
        assert result["sum"] == [[n * (n + 1) / 2, 10.0 * n]]
        assert result["kept"] == [[rank + 1, 10.0]]
        assert result["any"] == n - 1
        assert result["gathered"] == [f"r{peer}" for peer in range(n)]
        assert (result["backend"], result["device"]) == ("gloo", "cpu")
    assert len({json.dumps(result["from0"]) for result in results}) == 1


def left_over(work: Path) -> list[str]:
    return [path.name for path in (work / "shared").iterdir()]


def test_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    results = run(tmp_path, *torchrun, __file__, "one", str(tmp_path), "gloo")
    assert_summed(list(results.values()))
    assert [result["place"] for result in results.values()] == [[0, 2, 0, 2, 1], [1, 2, 1, 2, 1]]
    assert "torchrun's store" in results["0"]["path"]


def test_mpirun_of_open_mpi(tmp_path: Path) -> None:
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "--allow-run-as-root", "--oversubscribe", "-np", "3", sys.executable, __file__, "one", str(tmp_path), "auto"]
    results = run(tmp_path, *command)
    assert_summed(list(results.values()))
    assert sorted(result["place"][2] for result in results.values()) == [0, 1, 2]
    assert "openmpi: OMPI_COMM_WORLD_RANK=0" in results["0"]["path"]
    assert left_over(tmp_path) == []


def test_srun_over_two_nodes_of_unequal_size(tmp_path: Path, run_ranks: RunRanks) -> None:
    results = run_ranks(srun([2, 1]))
    assert_summed(results)
    assert [result["place"] for result in results] == [[0, 3, 0, 2, 2], [1, 3, 1, 2, 2], [2, 3, 0, 1, 2]]
    assert left_over(tmp_path) == []


def test_two_launches_at_once_in_one_folder_do_not_mix(tmp_path: Path, run_ranks: RunRanks) -> None:
    results = run_ranks([*srun([2], job=1), *srun([2], job=2)])
    assert_summed(results[:2])
    assert_summed(results[2:])
    assert [result["from0"]["id"] for result in results] == ["0", "0", "2", "2"]
    assert left_over(tmp_path) == []


def test_a_file_left_by_a_killed_run_is_not_believed(tmp_path: Path, run_ranks: RunRanks) -> None:
    ranks = srun([2])
    (tmp_path / "shared").mkdir()
    # what listens there takes the connection and never answers, as a stranger on a reused port may
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stale = {"nonce": "old", "port": stranger.getsockname()[1], "network": "elsewhere", "addresses": ["127.0.0.1"]}
        (tmp_path / "shared" / file_name(detect(ranks[0]), ranks[0])).write_text(json.dumps(stale))
        results = run_ranks([ranks[1], ranks[0]])
    assert_summed(results)
    assert left_over(tmp_path) == []


def test_an_occupied_master_port_does_not_matter(run_ranks: RunRanks) -> None:
    with socket.create_server(("", 0)) as other_user:
        port = str(other_user.getsockname()[1])
        results = run_ranks(srun([2], MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
    assert_summed(results)
    assert f"MASTER_PORT {port} is taken" in results[0]["path"]


def test_master_address_and_port_are_used_where_they_are_free(run_ranks: RunRanks) -> None:
    with socket.create_server(("", 0)) as probe:
        port = probe.getsockname()[1]
    by_hand = [{"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} for rank in range(2)]
    results = run_ranks(by_hand)
    assert_summed(results)
    assert f":{port}" in results[1]["path"]
    assert [result["place"][2:] for result in results] == [[0, 2, 1], [1, 2, 1]]


def test_a_launcher_without_a_key_is_told_by_the_process_that_started_the_ranks(run_ranks: RunRanks) -> None:
    hydra = [{"PMI_RANK": str(rank), "PMI_SIZE": "2", "MPI_LOCALRANKID": str(rank), "MPI_LOCALNRANKS": "2"} for rank in range(2)]
    assert_summed(run_ranks(hydra))


def test_ranks_wrapped_in_a_shell_each_still_know_their_common_launcher() -> None:
    code = (
        "from stormbench.core.launch import detect; from stormbench.deepcam.host import file_name; import os;"
        "os.write(1, (file_name(detect(os.environ), os.environ) + chr(10)).encode())"
    )
    rank = 'PMI_RANK={} PMI_SIZE=2 MPI_LOCALRANKID={} MPI_LOCALNRANKS=2 bash -c \'"$0" -c "$1"; true\' "$0" "$1" & '
    launcher = rank.format(0, 0) + rank.format(1, 1) + "wait"
    launches = [
        subprocess.run(["bash", "-c", launcher, sys.executable, code], env=clean_environ(), capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    names = [launch.stdout.split() for launch in launches]
    assert [len(pair) for pair in names] == [2, 2]
    assert names[0][0] == names[0][1] != names[1][0] == names[1][1]


def test_a_rank_that_never_comes_is_named(tmp_path: Path, run_ranks: RunRanks) -> None:
    results = run_ranks(srun([2, 2])[:3], timeout_s=2)
    for result in results:
        assert result["kind"] == "RunError"
        assert "3 of 4 ranks arrived within 2 s (missing ranks 3)" in result["error"]
    assert left_over(tmp_path) == []


def test_without_rank_0_the_others_say_where_they_looked(tmp_path: Path, run_ranks: RunRanks) -> None:
    (result,) = run_ranks(srun([2])[1:], timeout_s=2)
    assert result["kind"] == "RunError"
    assert "rank 1 of 2 did not find rank 0 within 2 s" in result["error"]
    assert str(tmp_path / "shared") in result["error"]


def test_a_killed_rank_ends_the_others_with_one_sentence(run_ranks: RunRanks) -> None:
    results = run_ranks(srun([3]), die=2)
    assert results[2] == {}
    for result in results[:2]:
        assert result["kind"] == "RunError"
        assert "a peer went away" in result["error"]


def test_two_processes_that_claim_one_rank_are_found_out(run_ranks: RunRanks) -> None:
    ranks = srun([3])
    results = run_ranks([ranks[0], ranks[1], ranks[1]], timeout_s=20)
    for result in results:
        assert "2 processes claim to be rank 1 of 3" in result["error"]
        assert LAUNCH_ID in result["error"]


def connected(method: str, folder: Path, environ: dict[str, str]) -> Any:
    pytest.importorskip("torch")
    from stormbench.deepcam.wireup import connect

    return connect(method, shared_folder=folder, timeout_s=5, environ=environ)


@pytest.mark.parametrize("method", ["auto", "gloo", "dummy"])
def test_one_process_needs_no_group_and_everything_works(tmp_path: Path, method: str) -> None:
    import torch

    from stormbench.deepcam.wireup import any_rank, barrier, from_rank0, gather, sum_over_ranks

    with connected(method, tmp_path / "shared", {}) as wire:
        assert (wire.rank, wire.world_size, wire.local_rank, wire.local_size, wire.n_nodes, wire.backend) == (0, 1, 0, 1, 1, None)
        assert torch.equal(sum_over_ranks(wire, torch.tensor([2.0, 3.0])), torch.tensor([2.0, 3.0]))
        assert (any_rank(wire, 4), gather(wire, "a"), from_rank0(wire, "b")) == (4, ["a"], "b")
        barrier(wire)
    assert not torch.distributed.is_initialized()
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("method", "environ", "told"),
    [
        ("dummy", srun([2])[0], r"dummy.*slurm started 2 ranks"),
        ("nccl", {}, r"not one of.*did you mean"),
        ("nccl-slurm", {}, r"SLURM_STEP_ID is not set.*srun"),
        ("nccl-openmpi", srun([2])[0], r"OMPI_COMM_WORLD_RANK is not set.*mpirun"),
        ("nccl-slurm-pmi", srun([2])[0], r"PMIX_RANK nor PMI_RANK.*srun --mpi=pmix"),
        ("nccl-slurm", {**srun([2])[0], "RANK": "3", "WORLD_SIZE": "4"}, r"slurm says.*torchrun.*RANK=3"),
        ("auto", {"RANK": "1"}, r"RANK=1 is set but WORLD_SIZE is not"),
    ],
)
def test_a_method_that_does_not_fit_the_launch_is_refused(tmp_path: Path, method: str, environ: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        connected(method, tmp_path, environ)


def test_nccl_without_a_gpu_and_mpi_without_its_build_name_the_alternatives(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"nccl-file: needs CUDA and NCCL.*auto or gloo"):
            connected("nccl-file", tmp_path, {})
    if not torch.distributed.is_mpi_available():
        with pytest.raises(UserError, match=r"built without MPI.*gloo"):
            connected("mpi", tmp_path, {})


def record(host: str, gpus: list[str], local: tuple[int, int] | tuple[None, None] = (None, None)) -> Result:
    place = {"local_rank": local[0], "local_size": local[1], "host": host, "network": host, "name": host}
    return {**place, "gpus": gpus, "address": f"ip-{host}"}


def test_auto_takes_nccl_where_every_rank_has_a_gpu() -> None:
    verdict = decide("auto", [record("a", ["g0", "g1"]), record("a", ["g0", "g1"]), record("b", ["h0", "h1"])], has_nccl=True)
    assert (verdict["backend"], verdict["gpu"], verdict["n_nodes"], verdict["addresses"]) == ("nccl", True, 2, ["ip-a", "ip-b"])
    assert [tuple(place.values()) for place in verdict["places"]] == [(0, 2, 0), (1, 2, 1), (0, 1, 0)]


def test_a_rank_that_sees_one_gpu_of_its_own_takes_it() -> None:
    verdict = decide("auto", [record("a", ["g0"], (0, 2)), record("a", ["g1"], (1, 2))], has_nccl=True)
    assert [place["gpu"] for place in verdict["places"]] == [0, 0]


@pytest.mark.parametrize("gpus", [["g0"], ["g0", "g1"]])
def test_more_ranks_than_gpus_on_a_node_are_refused(gpus: list[str]) -> None:
    with pytest.raises(UserError, match=r"ranks .*node a.*at most one rank per GPU"):
        decide("auto", [record("a", gpus, (local, 3)) for local in range(3)], has_nccl=True)


def test_a_node_without_its_gpus_is_named_unless_gloo_was_asked_for() -> None:
    mixed = [record("a", ["g0"]), record("b", []), record("b", [])]
    with pytest.raises(RunError, match=r"ranks 1-2 on b see no GPU"):
        decide("auto", mixed, has_nccl=True)
    verdict = decide("gloo", mixed, has_nccl=True)
    assert (verdict["backend"], verdict["gpu"]) == ("gloo", False)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        sys.exit(main(Path(sys.argv[2]), sys.argv[3], 60, "sum", str(detect().rank)))
