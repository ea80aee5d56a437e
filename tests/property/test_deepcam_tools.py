"""Invariants of the data tools: splits lose nothing, statistics merge in any order, conversion keeps every bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.deepcam import convert, fields, split, summarize
from tests.deepcam_files import write_sample


@given(n=st.integers(0, 10**6), first=st.integers(0, 100), second=st.integers(0, 100))
def test_boundaries_cover_all_files_in_order(n: int, first: int, second: int) -> None:
    first, second = min(first, second), abs(first - second)
    ends = split.boundaries(n, (first / 100, second / 100, (100 - first - second) / 100))
    assert 0 <= ends[0] <= ends[1] <= ends[2] == n
    assert ends[0] == n * first // 100
    assert ends[1] == n * (first + second) // 100


@given(n=st.integers(0, 10**6))
def test_boundaries_of_the_published_split_are_those_of_plain_floats(n: int) -> None:
    assert split.boundaries(n) == [int(0.8 * n), int(0.9 * n), n]


@given(n=st.integers(0, 3000), seed=st.integers(0, 2**32 - 1))
def test_permutation_has_each_position_once_and_is_the_seed_s_own(n: int, seed: int) -> None:
    order = split.permutation(n, seed)
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order, split.permutation(n, seed))


def partial(values_pc: np.ndarray) -> summarize.Partial:
    return summarize._sums(values_pc)


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1), shuffle=st.randoms())
def test_statistics_are_the_same_bits_in_any_order_of_the_files(sizes: list[int], seed: int, shuffle) -> None:
    rng = np.random.default_rng(seed)
    parts = [partial((rng.normal(size=(n, 16)) * 10.0 ** rng.integers(-8, 8)).astype(np.float32)) for n in sizes]
    one = summarize.merge(parts)
    shuffle.shuffle(parts)
    other = summarize.merge(parts)
    assert one.count == other.count == sum(sizes)
    for name in summarize.NUMBERS:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


@given(n=st.integers(1, 500), seed=st.integers(0, 2**32 - 1))
def test_statistics_agree_with_float64_and_extremes_are_exact(n: int, seed: int) -> None:
    values_pc = np.random.default_rng(seed).normal(5e4, 1e3, (n, 16)).astype(np.float32)
    found = summarize.merge([partial(values_pc)])
    np.testing.assert_allclose(found.mean, values_pc.astype(np.float64).mean(0), rtol=1e-7)
    np.testing.assert_allclose(found.sqmean, np.square(values_pc.astype(np.float64)).mean(0), rtol=1e-7)
    np.testing.assert_array_equal(found.minval, values_pc.min(0))
    np.testing.assert_array_equal(found.maxval, values_pc.max(0))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    label=st.sampled_from([np.uint8, np.int16, np.int32, np.int64, ">i4"]),
)
def test_conversion_keeps_every_bit_of_any_frame(height: int, width: int, seed: int, label) -> None:
    rng = np.random.default_rng(seed)
    # any finite bit pattern below the range where a square overflows
    image_hwc = (rng.normal(size=(height, width, 16)) * 10.0 ** rng.integers(-30, 15, (height, width, 16))).astype(np.float32)
    label_hw = rng.integers(0, 3, (height, width)).astype(label)
    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder) / "in" / "data-0.h5", image_hwc, label_hw)
        convert.run(Path(folder) / "in", Path(folder) / "out", workers=1, progress=False)
        assert np.load(Path(folder) / "out" / "data-0.npy").tobytes() == image_hwc.tobytes()
        stored = np.load(Path(folder) / "out" / "label-0.npy")
    np.testing.assert_array_equal(stored, label_hw)
    assert stored.dtype == np.dtype(label).newbyteorder("=")


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.2, 40),
    index=st.integers(0, 10**6),
)
def test_any_frame_and_scale_draws_finite_values_and_known_classes(rows: int, columns: int, seed: int, scale: float, index: int) -> None:
    grid = fields.Grid(height=16 * rows, width=16 * columns, storm_scale=scale)
    image_hwc, label_hw = fields.draw(np.random.default_rng(seed), np.zeros((16 * rows, 16 * columns), np.float32), grid, index)
    assert image_hwc.shape == (16 * rows, 16 * columns, 16)
    assert np.isfinite(image_hwc).all()
    assert set(np.unique(label_hw)) <= {0, 1, 2}


@given(start=st.integers(0, 10**6), mean=st.floats(0.05, 6), least=st.sampled_from([0, 1]))
def test_counts_of_storms_keep_their_mean_over_any_run_of_samples(start: int, mean: float, least: int) -> None:
    counts = [fields.storm_count(index, mean, at_least=least) for index in range(start, start + 200)]
    assert min(counts) >= least
    assert abs(np.mean(counts) - max(mean, least)) < 0.3
