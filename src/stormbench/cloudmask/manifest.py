"""Makes and reads xfdumanifest.xml, which says what a product is and lists its files with their sizes and checksums."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np

import stormbench
from stormbench.cloudmask import orbit
from stormbench.cloudmask.annotation import GENERATED, GENERATED_BY, stamp
from stormbench.cloudmask.orbit import Granule
from stormbench.cloudmask.pixels import Pixels
from stormbench.cloudmask.scene import CONFIDENCE, WAVELENGTH_UM, Scene, bit

NAME = "xfdumanifest.xml"
_SPACES = {
    "xfdu": "urn:ccsds:schema:xfdu:1",
    "sentinel-safe": "http://www.esa.int/safe/sentinel/1.1",
    "gml": "http://www.opengis.net/gml",
    "sentinel3": "http://www.esa.int/safe/sentinel/sentinel-3/1.0",
    "slstr": "http://www.esa.int/safe/sentinel/sentinel-3/slstr/1.0",
}
_BANDWIDTH_UM = (0.02, 0.02, 0.02, 0.015, 0.06, 0.05, 0.38, 0.9, 1.0)
_SUMMARY = {
    "salineWaterPixels": "ocean", "landPixels": "land", "coastalPixels": "coastline", "freshInlandWaterPixels": "inland_water",
    "tidalRegionPixels": "tidal", "cloudyPixels": "summary_cloud",
}  # fmt: skip
_UNREADABLE = (ET.ParseError, KeyError, ValueError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a product."""

    name: str
    size: int
    md5: str


def read(content: bytes) -> dict[str, Entry]:
    """Return the entries of a manifest by file name, none of them if it is damaged."""
    entries = {}
    try:
        for stream in ET.fromstring(content).iter("byteStream"):
            location, checksum = stream.find("fileLocation"), stream.find("checksum")
            name = location.attrib["href"]  # type: ignore[union-attr]
            entries[name] = Entry(name=name, size=int(stream.attrib["size"]), md5=(checksum.text or "").strip())  # type: ignore[union-attr]
    except _UNREADABLE:
        return {}
    return entries


def make(granule: Granule, scene: Scene, coarse: Pixels, fine: Pixels, entries: Sequence[Entry]) -> bytes:
    """Return the manifest of a product of these files, in the order given."""
    spaces = " ".join(f"xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in _SPACES.items())
    units = "\n".join(_unit(entry) for entry in entries)
    objects = "\n".join(_data_object(entry) for entry in entries)
    parts = (
        ("processing", "PROVENANCE", "PDI", "Processing", _processing(granule)),
        ("acquisitionPeriod", "DESCRIPTION", "DMD", "Acquisition Period", _period(granule)),
        ("platform", "DESCRIPTION", "DMD", "Platform Description", _platform(granule)),
        ("generalProductInformation", "DESCRIPTION", "DMD", "General Product Information", _general(granule, entries)),
        ("measurementOrbitReference", "DESCRIPTION", "DMD", "Orbit Reference", _orbit(granule)),
        ("measurementQualityInformation", "DESCRIPTION", "DMD", "Quality Information", _quality(coarse)),
        ("measurementFrameSet", "DESCRIPTION", "DMD", "Frame Set", _footprint(granule)),
        ("slstrProductInformation", "DESCRIPTION", "DMD", "", _instrument(granule, scene, coarse, fine)),
    )
    metadata = "\n".join(_metadata(*part) for part in parts)
    described = " ".join(part[0] for part in parts[1:])
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- {GENERATED} -->
<xfdu:XFDU {spaces} version="esa/safe/sentinel/sentinel-3/slstr/level-1/1.0">
<informationPackageMap>
<xfdu:contentUnit ID="packageUnit" unitType="Information Package" textInfo="SENTINEL-3 SLSTR Level 1 Package" pdiID="processing" dmdID="{described}">
{units}
</xfdu:contentUnit>
</informationPackageMap>
<metadataSection>
{metadata}
</metadataSection>
<dataObjectSection>
{objects}
</dataObjectSection>
</xfdu:XFDU>
"""  # noqa: E501
    return text.encode("ascii")


def _identifier(entry: Entry) -> str:
    """Return a file's name among the data objects, such as SLSTR_S1_RAD_AN."""
    stem = entry.name.removesuffix(".nc")
    return "ADF" if stem == "viscal" else "SLSTR_" + stem.upper().replace("RADIANCE", "RAD")


def _unit(entry: Entry) -> str:
    kind = "Measurement" if "_radiance_" in entry.name or "_BT_" in entry.name else "Annotation"
    name = _identifier(entry)
    return (
        f'<xfdu:contentUnit ID="{name}_Unit" unitType="{kind} Data Unit" textInfo="{entry.name.removesuffix(".nc")} data set">'
        f'<dataObjectPointer dataObjectID="{name}_Data"/></xfdu:contentUnit>'
    )


def _data_object(entry: Entry) -> str:
    return (
        f'<dataObject ID="{_identifier(entry)}_Data"><byteStream mimeType="application/x-netcdf" size="{entry.size}">'
        f'<fileLocation locatorType="URL" href="{entry.name}"/><checksum checksumName="MD5">{entry.md5}</checksum>'
        "</byteStream></dataObject>"
    )


def _metadata(name: str, classification: str, category: str, text: str, content: str) -> str:
    return (
        f'<metadataObject ID="{name}" classification="{classification}" category="{category}">'
        f'<metadataWrap mimeType="text/xml" vocabularyName="Sentinel-SAFE" textInfo="{text}"><xmlData>\n{content}\n'
        "</xmlData></metadataWrap></metadataObject>"
    )


def _tags(prefix: str, values: Mapping[str, object]) -> str:
    return "".join(f"<{prefix}:{name}>{value}</{prefix}:{name}>" for name, value in values.items())


def _processing(granule: Granule) -> str:
    return (
        f'<sentinel-safe:processing name="DataProcessing" outputLevel="1" start="{stamp(granule.created)}" stop="{stamp(granule.created)}">'
        '<sentinel-safe:facility name="generated" organisation="" site="" country="">'
        f'<sentinel-safe:software name="{GENERATED_BY}" version="{stormbench.__version__}"/></sentinel-safe:facility>'
        "</sentinel-safe:processing>"
    )


def _period(granule: Granule) -> str:
    times = _tags("sentinel-safe", {"startTime": stamp(granule.start), "stopTime": stamp(granule.stop)})
    return f"<sentinel-safe:acquisitionPeriod>{times}</sentinel-safe:acquisitionPeriod>"


def _platform(granule: Granule) -> str:
    letter = granule.mission[-1]
    names = _tags("sentinel-safe", {"nssdcIdentifier": f"0000-000{letter}", "familyName": "Sentinel-3", "number": letter})
    return (
        f"<sentinel-safe:platform>{names}<sentinel-safe:instrument>"
        '<sentinel-safe:familyName abbreviation="SLSTR">Sea and Land Surface Temperature Radiometer</sentinel-safe:familyName>'
        '<sentinel-safe:mode identifier="EO">Earth Observation</sentinel-safe:mode></sentinel-safe:instrument></sentinel-safe:platform>'
    )


def _general(granule: Granule, entries: Sequence[Entry]) -> str:
    values = {
        "productName": f"{granule.name}.SEN3",
        "productType": "SL_1_RBT___",
        "timeliness": granule.timeliness,
        "baselineCollection": granule.baseline,
        "creationTime": f"{granule.created:%Y%m%dT%H%M%S}",
        "productSize": sum(entry.size for entry in entries),
    }
    return f"<sentinel3:generalProductInformation>{_tags('sentinel3', values)}</sentinel3:generalProductInformation>"


def _orbit(granule: Granule) -> str:
    north = np.diff(orbit.tie_geometry(granule)["latitude"][:, orbit.TIE_TRACK])[0] > 0
    where = f'groundTrackDirection="{"ascending" if north else "descending"}" type="start"'
    numbers = {"orbitNumber": granule.absolute_orbit, "relativeOrbitNumber": granule.relative_orbit}
    lines = "".join(f"<sentinel-safe:{name} {where}>{number}</sentinel-safe:{name}>" for name, number in numbers.items())
    cycle = _tags("sentinel-safe", {"cycleNumber": granule.cycle, "phaseIdentifier": 1})
    return f"<sentinel-safe:orbitReference>{lines}{cycle}</sentinel-safe:orbitReference>"


def _quality(coarse: Pixels) -> str:
    gaps = "<sentinel3:degradationFlags>INPUT_GAPS</sentinel3:degradationFlags>" if coarse.lost.any() else ""
    check = f"<sentinel3:onlineQualityCheck>PASSED</sentinel3:onlineQualityCheck>{gaps}"
    extension = f"<sentinel-safe:extension><sentinel3:productQuality>{check}</sentinel3:productQuality></sentinel-safe:extension>"
    return f"<sentinel-safe:qualityInformation>{extension}</sentinel-safe:qualityInformation>"


def _footprint(granule: Granule) -> str:
    """The corners and the middles of the sides, in a closed ring."""
    height, width = granule.height - 1.0, granule.width - 1.0
    ring = [(0, 0), (0, 0.5), (0, 1), (0.5, 1), (1, 1), (1, 0.5), (1, 0), (0.5, 0), (0, 0)]
    places = []
    for down, right in ring:
        across = orbit.across(granule, np.array([right * width]), 1000)
        latitude, longitude = orbit.places(granule, np.array([down * height]), across)
        places.append(f"{np.degrees(latitude[0, 0]):.4f} {np.degrees(longitude[0, 0]):.4f}")
    positions = f"<gml:posList>{' '.join(places)}</gml:posList>"
    outline = f'<sentinel-safe:footPrint srsName="http://www.opengis.net/def/crs/EPSG/0/4326">{positions}</sentinel-safe:footPrint>'
    return f"<sentinel-safe:frameSet>{outline}</sentinel-safe:frameSet>"


def _instrument(granule: Granule, scene: Scene, coarse: Pixels, fine: Pixels) -> str:
    shares = "".join(
        f'<sentinel3:{name} percentage="{100 * np.mean(scene.confidence_hw & bit(CONFIDENCE, flag) > 0):.6f}"/>'
        for name, flag in _SUMMARY.items()
    )
    grids = (("1 km", 1000, coarse), ("0.5 km stripe A", 500, fine))
    lines = [f'<slstr:classificationSummary grid="1 km">{shares}</slstr:classificationSummary>']
    for grid, step in (*((name, step) for name, step, _ in grids), ("Tie Points", orbit.TIE_STEP_M)):
        lines.append(f'<slstr:resolution grid="{grid}"><slstr:spatialResolution>{step}</slstr:spatialResolution></slstr:resolution>')
    sizes = [(name, 1000 // step, granule.track_offset, granule.width) for name, step, _ in grids]
    for grid, times, track, columns in (*sizes, ("Tie Points", 1, orbit.TIE_TRACK, orbit.TIE_COLUMNS)):
        values = {
            "startOffset": granule.row_offset * times,
            "trackOffset": track * times,
            "rows": granule.height * times,
            "columns": columns * times,
        }
        lines.append(f'<slstr:nadirImageSize grid="{grid}">{_tags("sentinel3", values)}</slstr:nadirImageSize>')
    for name, _, pixels in grids:
        counts = {"cosmeticPixels": len(pixels.cosmetic_at[0]), "duplicatedPixels": int(pixels.duplicate.sum())}
        inside = "".join(f'<slstr:{kind} value="{n}" percentage="{100 * n / pixels.unfilled.size:.6f}"/>' for kind, n in counts.items())
        lines.append(f'<slstr:pixelQualitySummary grid="{name}">{inside}</slstr:pixelQualitySummary>')
    bands = "".join(
        f'<sentinel3:band name="S{number}">'
        f"{_tags('sentinel3', {'centralWavelength': f'{centre:.6f}', 'bandwidth': f'{width:.6f}'})}</sentinel3:band>"
        for number, (centre, width) in enumerate(zip(WAVELENGTH_UM, _BANDWIDTH_UM, strict=True), 1)
    )
    lines.append(f'<slstr:bandDescriptions bands="9">{bands}</slstr:bandDescriptions>')
    return f"<slstr:slstrProductInformation>{''.join(lines)}</slstr:slstrProductInformation>"
