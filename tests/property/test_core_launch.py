"""Invariants of rank detection: hostlists mean what a plain listing means, and all tasks of a step agree on one layout."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.core.hostlist import expand, expand_counts, fold
from stormbench.core.launch import detect

NAMES = st.text("abcxyz-", min_size=1, max_size=5)


@st.composite
def bracketed(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return a bracketed set and, by a plain loop, what it stands for."""
    width = draw(st.integers(1, 6))
    pieces, numbers = [], []
    for _ in range(draw(st.integers(1, 3))):
        low = draw(st.integers(0, 10**width - 1))
        high = low + draw(st.integers(0, 12))
        pieces.append(f"{low:0{width}d}" if high == low else f"{low:0{width}d}-{high:0{width}d}")
        numbers += [f"{number:0{width}d}" for number in range(low, high + 1)]
    return f"[{','.join(pieces)}]", numbers


@st.composite
def elements(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return one element of a hostlist, with up to two sets, and the names it stands for."""
    text = draw(NAMES)
    hosts = [text]
    for _ in range(draw(st.integers(0, 2))):
        part, numbers = draw(bracketed())
        suffix = draw(st.just("") | NAMES)
        text += part + suffix
        hosts = [f"{host}{number}{suffix}" for host in hosts for number in numbers]
    return text, hosts


@given(st.lists(elements(), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_a_hostlist_means_its_plain_listing(parts: list[tuple[str, list[str]]]) -> None:
    expected = [host for _, hosts in parts for host in hosts]
    assert expand(",".join(text for text, _ in parts)) == expected
    assert expand(",".join(expected)) == expected


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=5))
def test_tasks_per_node_mean_their_plain_listing(runs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{tasks}(x{nodes})" if nodes > 1 else str(tasks) for tasks, nodes in runs)
    assert expand_counts(text) == [tasks for tasks, nodes in runs for _ in range(nodes)]


@given(st.sets(st.integers(0, 60)))
def test_folded_ranks_unfold_to_the_same(ranks: set[int]) -> None:
    unfolded: set[int] = set()
    for piece in filter(None, fold(ranks).split(",")):
        low, _, high = piece.partition("-")
        unfolded |= set(range(int(low), int(high or low) + 1))
    assert unfolded == ranks


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_all_tasks_of_a_step_agree_on_one_layout(tasks: list[int]) -> None:
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(sum(tasks)), "SLURM_NTASKS": str(sum(tasks)),
            "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, tasks)), "SLURM_STEP_NODELIST": f"n[0-{len(tasks) - 1}]"}  # fmt: skip
    places = [(node, local) for node, count in enumerate(tasks) for local in range(count)]
    launches = [
        detect({**step, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)})
        for rank, (node, local) in enumerate(places)
    ]
    assert [(launch.node_rank, launch.local_rank) for launch in launches] == places
    assert [launch.local_size for launch in launches] == [tasks[node] for node, _ in places]
    assert {(launch.world_size, launch.n_nodes, launch.job_id, launch.master_address) for launch in launches} == {
        (sum(tasks), len(tasks), "slurm-1.0.0", "n0")
    }
