"""Where generated products lie: times, names, offsets, places and angles, checked with numbers worked out by hand."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest

from stormbench.cloudmask import names, orbit
from stormbench.cloudmask.geometry import Grid, tie_position
from stormbench.cloudmask.orbit import Granule

FULL = Granule(seed=1, orbit=0, frame=12)
SMALL = Granule(seed=1, orbit=1, frame=12, height=96, width=128)


def central_angle_deg(one: tuple[float, float], other: tuple[float, float]) -> float:
    (a, b), (c, d) = (np.radians(place) for place in (one, other))
    return math.degrees(math.acos(math.sin(a) * math.sin(c) + math.cos(a) * math.cos(c) * math.cos(b - d)))


def test_name_is_one_that_the_readers_know() -> None:
    found = names.parse(f"{FULL.name}.SEN3")
    assert (found.mission, found.baseline, found.frame, found.duration_s) == ("S3A", "004", "2160", 179)
    assert (found.relative_orbit, found.cycle, found.centre, found.timeliness) == (102, 52, "LN2", "NT")
    # node at 00:30, then twelve frames of three minutes
    assert found.start == datetime.datetime(2019, 12, 3, 1, 6, tzinfo=datetime.timezone.utc)
    assert found.stop - found.start == datetime.timedelta(minutes=3)
    assert found.created > found.stop


def test_odd_orbits_leave_the_frame_out_of_the_name() -> None:
    assert names.parse(SMALL.name).frame == "____"


def test_four_orbits_see_both_satellites_with_both_baselines() -> None:
    seen = [(g.mission, g.baseline) for g in (Granule(seed=1, orbit=number, frame=0) for number in range(4))]
    assert sorted(seen) == [("S3A", "004"), ("S3A", "005"), ("S3B", "004"), ("S3B", "005")]


def test_reprocessed_products_have_their_sensing_time_and_a_later_creation() -> None:
    for number in range(4):
        first = Granule(seed=1, orbit=number, frame=3)
        second = Granule(seed=1, orbit=number, frame=3, reprocessing=1)
        assert names.parse(first.name).sensing == names.parse(second.name).sensing
        assert first.created < second.created


def test_offsets_count_rows_from_the_node_and_columns_from_the_track() -> None:
    # twelve frames of 1200 rows; odd orbits count from the node of the orbit before, 6059.22 s at 0.15 s a row
    assert (FULL.row_offset, FULL.track_offset) == (14_400, 998)
    assert (SMALL.row_offset, SMALL.track_offset) == (14_400 + 552 + 40_395, 998 - 686)


def test_track_keeps_its_inclination_and_period() -> None:
    rows = np.arange(0, 40_395, 5)
    latitude, _ = orbit.places(Granule(seed=1, orbit=0, frame=0), rows, np.zeros(1))
    assert np.degrees(latitude.max()) == pytest.approx(180 - 98.65, abs=0.01)
    assert latitude[0, 0] == pytest.approx(0)
    assert np.degrees(latitude[-1, 0]) == pytest.approx(0, abs=0.05)


def test_descending_node_is_crossed_at_10_in_the_morning() -> None:
    for number in (0, 1, 5):
        granule = Granule(seed=1, orbit=number, frame=16)
        rows = np.arange(1200) * 1.0
        latitude, longitude = orbit.places(granule, rows, np.zeros(1))
        row = int(np.argmin(np.abs(latitude[:, 0])))
        time = granule.start + datetime.timedelta(seconds=row * 0.15)
        local = (time.hour + time.minute / 60 + time.second / 3600 + np.degrees(longitude[row, 0]) / 15) % 24
        assert local == pytest.approx(10, abs=0.1)


def test_pixels_are_a_kilometre_apart() -> None:
    latitude, longitude = (np.degrees(a) for a in orbit.places(SMALL, np.arange(3), orbit.across(SMALL, np.arange(3), 1000)))
    kilometre_deg = math.degrees(1 / 6371)
    across = central_angle_deg((latitude[0, 0], longitude[0, 0]), (latitude[0, 1], longitude[0, 1]))
    along = central_angle_deg((latitude[0, 0], longitude[0, 0]), (latitude[1, 0], longitude[1, 0]))
    assert across == pytest.approx(kilometre_deg, rel=1e-3)
    assert along == pytest.approx(kilometre_deg, rel=0.02)


def test_angles_are_those_of_the_places() -> None:
    found = orbit.tie_geometry(SMALL)
    track = orbit.TIE_TRACK
    assert np.abs(found["sat_zenith"][:, track]).max() < 1e-3
    # 33 tie points of 16 km off the track, seen from 814.5 km up
    away = 33 * 16 / 6371
    expected = math.degrees(math.atan2(math.sin(away), math.cos(away) - 6371 / (6371 + 814.5)))
    assert found["sat_zenith"][0, track - 33] == pytest.approx(expected, abs=1e-6)
    time = SMALL.start + datetime.timedelta(seconds=90)
    days = (time - datetime.datetime(2019, 1, 1)).total_seconds() / 86_400
    below_sun = (-23.44 * math.cos(2 * math.pi * (days + 10) / 365.25), 180 - 360 * (days % 1))
    place = (found["latitude"][5, 50], found["longitude"][5, 50])
    assert found["solar_zenith"][5, 50] == pytest.approx(central_angle_deg(place, below_sun), abs=1e-9)


def test_sun_stands_in_the_south_at_noon_in_the_north() -> None:
    found = orbit.tie_geometry(FULL)
    # at 46 degrees north and 10 in the morning in winter it stands south-east
    assert found["latitude"][600, 64] == pytest.approx(46, abs=1)
    assert 120 < found["solar_azimuth"][600, 64] < 170


@pytest.mark.parametrize(("step_m", "row", "column"), [(1000, 40, 77), (500, 81, 33), (500, 0, 255), (500, 190, 0)])
def test_values_between_tie_points_are_those_of_the_published_mapping(step_m: int, row: int, column: int) -> None:
    times = 1000 // step_m
    image = Grid(
        step_along=step_m, step_across=step_m, start_offset=SMALL.row_offset * times, track_offset=SMALL.track_offset * times
    )  # fmt: skip
    ties = Grid(step_along=1000, step_across=16_000, start_offset=SMALL.row_offset, track_offset=64)
    tie_row, tie_column = (float(np.squeeze(value)) for value in tie_position(row, column, image, ties))
    assert tie_column == (column - SMALL.track_offset * times) * step_m / 16_000 + 64
    rng = np.random.default_rng(0)
    tie = rng.normal(size=(96, 130))
    top, left = int(tie_row), int(tie_column)
    down, right = tie_row - top, tie_column - left
    corners = tie[top : top + 2, left : left + 2]
    if len(corners) == 1:
        corners = np.repeat(corners, 2, axis=0)
    expected = np.array([1 - down, down]) @ corners @ np.array([1 - right, right])
    assert orbit.between_ties(SMALL, tie, step_m)[row, column] == pytest.approx(expected, abs=1e-12)


def test_night_turns_into_day_within_one_orbit() -> None:
    for height, width in ((1200, 1500), (96, 128)):
        lights = [orbit.light(Granule(seed=1, orbit=0, frame=frame, height=height, width=width)) for frame in range(33)]
        first_day = lights.index("day")
        assert lights[first_day - 1] == "twilight"
        assert "night" in lights[:first_day]
        assert lights[first_day : first_day + 10] == ["day"] * 10
