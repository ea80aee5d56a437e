"""Invariants of generated products: packing loses half a unit at most, frames join, and any set is planned without a repetition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stormbench.cloudmask import names, orbit, sen3, synth
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.texture import fractal


@given(channel=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_packed_radiances_come_back_within_half_a_unit(channel: int, seed: int) -> None:
    scale, offset = sen3.packing(channel)
    rng = np.random.default_rng(seed)
    values = rng.uniform(-32_700 * scale + offset, 32_700 * scale + offset, 200).astype(np.float32)
    invalid = rng.random(200) < 0.2
    stored = sen3.packed(values, scale, offset, invalid)
    np.testing.assert_array_equal(stored == sen3.FILL, invalid)
    assert np.abs(stored * scale + offset - values)[~invalid].max(initial=0) <= 0.5 * scale * 1.01


@settings(max_examples=30)
@given(
    first=st.integers(0, 10**6), height=st.integers(1, 90), width=st.integers(1, 60), coarsest=st.integers(0, 7), hurst=st.floats(0, 1),
    cut=st.floats(0, 1),
)  # fmt: skip
def test_any_part_of_a_field_is_drawn_as_in_the_whole(first: int, height: int, width: int, coarsest: int, hurst: float, cut: float) -> None:
    whole = fractal((1, 2), first, height, width, coarsest=coarsest, hurst=hurst)
    start = int(cut * (height - 1))
    np.testing.assert_array_equal(fractal((1, 2), first + start, height - start, width, coarsest=coarsest, hurst=hurst), whole[start:])


@settings(max_examples=40)
@given(
    number=st.integers(0, 3000), frame=st.integers(0, 32), height=st.integers(32, 1200), width=st.integers(32, 1500), again=st.booleans()
)
def test_every_name_can_be_read_and_every_offset_lies_in_its_frame(number: int, frame: int, height: int, width: int, again: bool) -> None:
    granule = Granule(seed=0, orbit=number, frame=frame, height=height, width=width, reprocessing=int(again))
    found = names.parse(granule.name)
    assert (found.mission, found.baseline) == (granule.mission, granule.baseline)
    assert found.start.replace(tzinfo=None) == granule.start
    assert frame * 1200 <= granule.first_row <= granule.first_row + height <= (frame + 1) * 1200
    # the column below the satellite is that of the whole frame less what was cut off
    assert granule.track_offset == orbit.TRACK_COLUMN - (orbit.FULL_WIDTH - width) // 2


@settings(max_examples=20, deadline=None)
@given(products=st.integers(1, 150), share=st.floats(0, 1), duplicates=st.floats(0, 1))
def test_any_plan_has_each_sensing_time_once_and_the_duplicates_twice(products: int, share: float, duplicates: float) -> None:
    least = -(-products // 33)
    orbits, again = least + int(share * (min(products, 12) - least)) if least < 12 else least, int(duplicates * products)
    granules = synth.plan(synth._checked(products, max(orbits, least), again, 96, 128, False, 1))
    assert len(granules) == products + again
    assert len({granule.name for granule in granules}) == products + again
    assert len({names.parse(granule.name).sensing for granule in granules}) == products
