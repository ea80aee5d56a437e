"""xfdumanifest.xml of generated products: what it says of the product, and that it lists its files truly."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from stormbench.cloudmask import manifest, scene, sen3
from stormbench.cloudmask.manifest import Entry
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.pixels import pixels

GRANULE = Granule(seed=1, orbit=1, frame=12, height=64, width=80)
ENTRIES = [Entry(name=name, size=100 + number, md5=f"{number:032x}") for number, name in enumerate(sen3.FILES)]


@pytest.fixture(scope="module")
def content() -> bytes:
    return manifest.make(GRANULE, scene.draw(GRANULE), pixels(GRANULE, 1000), pixels(GRANULE, 500), ENTRIES)


def test_entries_come_back_from_the_text(content: bytes) -> None:
    assert manifest.read(content) == {entry.name: entry for entry in ENTRIES}


def test_damaged_text_has_no_entries(content: bytes) -> None:
    for damaged in (b"", content[:-20], content.replace(b'size="100"', b'size="x"'), content.replace(b"href=", b"ref=")):
        assert manifest.read(damaged) == {}


def find(content: bytes, tag: str) -> list[ET.Element]:
    prefix, name = tag.split(":")
    return list(ET.fromstring(content).iter(f"{{{manifest._SPACES[prefix]}}}{name}"))


def test_it_names_product_orbit_and_times(content: bytes) -> None:
    texts = {
        "sentinel3:productName": f"{GRANULE.name}.SEN3",
        "sentinel3:baselineCollection": "005",
        "sentinel3:timeliness": "NT",
        "sentinel-safe:number": "B",
        "sentinel-safe:relativeOrbitNumber": "103",
        "sentinel-safe:startTime": f"{GRANULE.start:%Y-%m-%dT%H:%M:%S}.000000Z",
        "sentinel3:productSize": str(sum(entry.size for entry in ENTRIES)),
    }
    assert {tag: find(content, tag)[0].text for tag in texts} == texts


def test_it_gives_size_and_offsets_of_each_grid(content: bytes) -> None:
    found = {grid.attrib["grid"]: [int(number.text or "") for number in grid] for grid in find(content, "slstr:nadirImageSize")}
    start, track = GRANULE.row_offset, GRANULE.track_offset
    assert found == {
        "1 km": [start, track, 64, 80], "0.5 km stripe A": [2 * start, 2 * track, 128, 160], "Tie Points": [start, 64, 64, 130],
    }  # fmt: skip


def test_it_counts_the_pixels(content: bytes) -> None:
    summary = find(content, "slstr:pixelQualitySummary")[0]
    counts = {child.tag.split("}")[1]: int(child.attrib["value"]) for child in summary}
    grid = pixels(GRANULE, 1000)
    assert counts == {"cosmeticPixels": len(grid.cosmetic_at[0]), "duplicatedPixels": int(np.sum(grid.duplicate))}


def test_footprint_is_a_closed_ring(content: bytes) -> None:
    places = np.array(find(content, "gml:posList")[0].text.split(), float).reshape(-1, 2)
    np.testing.assert_array_equal(places[0], places[-1])
    assert np.ptp(places[:, 0]) == pytest.approx(0.7, abs=0.4)


def test_it_says_that_the_data_is_generated(content: bytes) -> None:
    assert b"proves machinery, never accuracy" in content
