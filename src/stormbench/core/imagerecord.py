"""What is known of the container image that a run is in, for run.json: from the image.json of its export, else from the image itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "image.json"
"""Job scripts copy it from beside the image into the run folder."""
LABEL = "org.stormbench."
"""Begins the labels that `stormbench images build` gives an image, under the names that image.json has too."""
MANIFEST = Path("/opt/stormbench/manifest.txt")
IDENTITY = ("image", "variant", "tag", "image_id", "digest", "base", "sha256", "architecture", "exported")


def of_run(folder: Path, environ: Mapping[str, str] = os.environ, manifest: Path = MANIFEST) -> dict[str, Any] | None:
    """Return the image's name, digests and origin; its packages too where no image.json in the run folder has them. None outside an image.

    A damaged image.json is told, and ends no run.
    """
    variant, container = environ.get("STORMBENCH_IMAGE", ""), environ.get("CONT", "")
    if not variant:
        return None
    known: dict[str, Any] = {"container": container or None, "variant": variant}
    try:
        images = json.loads((folder / NAME).read_text(encoding="utf-8"))["images"]
        found = _record(images, variant, Path(container).name)
    except FileNotFoundError:
        found = None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return {**known, "unknown": f"{NAME} can't be read: {type(error).__name__}", "packages": packages(manifest)}
    if found is None:
        return {**known, "packages": packages(manifest)}
    file, record = found
    return {**known, "file": file, **{name: record.get(name) for name in IDENTITY}, "packages_in": NAME}


def _record(images: Mapping[str, Mapping[str, Any]], variant: str, file: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return the record of the image's file, else the only one of its variant."""
    own = {name: record for name, record in images.items() if f"{record.get('image')}.{record.get('variant')}" == variant}
    if file in own:
        return file, own[file]
    return next(iter(own.items())) if len(own) == 1 else None


def packages(manifest: Path) -> dict[str, dict[str, str]]:
    """Return the versions of an image's packages by kind and name, from its manifest; empty where there is none."""
    try:
        return packages_of(manifest.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {"system": {}, "python": {}}


def packages_of(text: str) -> dict[str, dict[str, str]]:
    """Return the versions by kind and name that a manifest holds, `system NAME VERSION` or `python NAME VERSION` a line."""
    found: dict[str, dict[str, str]] = {"system": {}, "python": {}}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        name, _, version = rest.partition(" ")
        if kind in found and version:
            found[kind][name] = version
    return found
