"""Draws an image, its Bayesian mask and the model's mask side by side as a PNG. Imports matplotlib when used."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import sources
from stormbench.cloudmask.frame import BTS, REFS, Frame
from stormbench.cloudmask.masks import CLOUD_FROM, read_mask
from stormbench.core.errors import RunError, UserError, did_you_mean
from stormbench.core.files import atomic_path, writable_folder

DAY_COLOURS = ("S5", "S3", "S1")
"""Red, green, blue: 1.6, 0.87 and 0.56 micrometres, in which water clouds are white, ice is cyan, plants green and the sea dark."""
NIGHT_CHANNEL = "S8"
STRETCH = (1.0, 99.0)
"""Percentiles of the valid pixels that become black and white."""
CLEAR, CLOUD, UNKNOWN = (0.27, 0.47, 0.67), (1.0, 1.0, 1.0), (0.45, 0.45, 0.45)
SIZE_INCHES = (13.0, 4.4)


def run(data: Path, predictions: Path, output: Path, *, product: str | None = None) -> dict[str, Any]:
    """Write the picture of one product to the PNG file `output`: of `product`, else of the one with the most even share of cloud.

    `data` holds the converted or raw products, `predictions` the masks that `inference` made of them.

    Returns:
        The `output`, the `product`, its `agreement` with the Bayesian mask over valid pixels, whether it is `generated`,
        and a `note` that says so.

    Raises:
        UserError: no product has a mask, or matplotlib is missing.
        RunError: a file is damaged, or a mask has another size than its image.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("matplotlib isn't installed; install stormbench with its report part: pip install 'stormbench[report]'")
    if output.suffix.lower() != ".png":
        raise UserError(f"{output}: must end in .png, the format that is written")
    source = _chosen(data, predictions, product)
    frame = sources.read(source)
    mask_hw, valid_hw = read_mask(predictions / f"{source.name}.h5")
    if mask_hw.shape != frame.shape:
        sizes = "{} x {} pixels, its image {} x {}".format(*mask_hw.shape, *frame.shape)
        raise RunError(f"{predictions / source.name}.h5: the mask has {sizes}; predict its product again")
    writable_folder(output.parent, "the picture's folder")
    cloud_hw = mask_hw >= CLOUD_FROM
    agreement = float((cloud_hw == (frame.bayes_hw > 0))[valid_hw].mean()) if valid_hw.any() else None
    draw(output, source.name, frame, cloud_hw, valid_hw, agreement)
    generated = sources.is_generated(frame)
    return {
        "output": str(output), "product": source.name, "agreement": agreement, "generated": generated,
        "note": sources.GENERATED_NOTE if generated else "",
    }  # fmt: skip


def text(record: dict[str, Any]) -> str:
    """Return for people what was drawn."""
    agreement = record["agreement"]
    shown = "no pixel has a valid measurement" if agreement is None else f"{agreement:.1%} of the valid pixels are as in the Bayesian mask"
    lines = [f"{record['output']}: {record['product']}, {shown}."]
    return "\n".join([*lines, record["note"]] if record["note"] else lines)


def _chosen(data: Path, predictions: Path, product: str | None) -> sources.Source:
    """Return the product to draw: what is all cloud or all clear shows little, so the most even one, the first of several."""
    found = {source.name: source for source in sources.find(data) if (predictions / f"{source.name}.h5").is_file()}
    if product is not None:
        if product not in found:
            raise UserError(f"--product {product}: has no mask in {predictions}, or no image in {data}{did_you_mean(product, found)}")
        return found[product]
    if not found:
        raise UserError(f"{predictions}: has no mask <product>.h5 of any product in {data}; predict them first")
    evenness = {}
    for name in found:
        mask_hw, valid_hw = read_mask(predictions / f"{name}.h5")
        share = float((mask_hw >= CLOUD_FROM)[valid_hw].mean()) if valid_hw.any() else 0.0
        evenness[name] = min(share, 1 - share)
    return found[max(evenness, key=lambda name: evenness[name])]


def draw(output: Path, name: str, frame: Frame, cloud_hw: NDArray[np.bool_], valid_hw: NDArray[np.bool_], agreement: float | None) -> None:
    """Write the three panels; `cloud_hw` is the model's mask."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title, image_hwc = composite(frame)
    share = "" if agreement is None else f", {agreement:.1%} as the Bayesian"
    panels = (
        (title, image_hwc),
        ("Bayesian mask", painted(frame.bayes_hw > 0, valid_hw)),
        (f"model's mask{share}", painted(cloud_hw, valid_hw)),
    )
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    for axes, (words, picture_hwc) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.imshow(picture_hwc, interpolation="nearest")
        axes.set_title(words, fontsize=10)
        axes.set_axis_off()
    figure.suptitle(name, fontsize=9)
    legend = "masks: white cloud, blue clear, grey no valid measurement"
    figure.supxlabel(f"{legend}\n{sources.GENERATED_NOTE}" if sources.is_generated(frame) else legend, fontsize=9)
    with atomic_path(output) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def composite(frame: Frame) -> tuple[str, NDArray[np.float32]]:
    """Return words and an image (h, w, 3) in [0, 1]: colours by day; by night the brightness temperature, cold is white."""
    refs_hwc = frame.refs_hwc[..., [REFS.index(channel) for channel in DAY_COLOURS]]
    if np.isfinite(refs_hwc).any():
        planes = [_stretched(refs_hwc[..., index]) for index in range(3)]
        return f"reflectances {', '.join(DAY_COLOURS)} as red, green, blue", np.stack(planes, axis=-1)
    cold_hw = 1 - _stretched(frame.bts_hwc[..., BTS.index(NIGHT_CHANNEL)])
    return f"brightness temperature {NIGHT_CHANNEL}, cold is white", np.repeat(cold_hw[..., None], 3, axis=2)


def _stretched(plane_hw: NDArray[Any]) -> NDArray[np.float32]:
    """Return the plane between black and white, invalid pixels black."""
    values = plane_hw.astype(np.float32)
    valid = values[np.isfinite(values)]
    if not valid.size:
        return np.zeros_like(values)
    low, high = np.percentile(valid, STRETCH)
    scaled = (values - low) / max(float(high - low), 1e-6)
    return np.nan_to_num(np.clip(scaled, 0, 1), nan=0.0)


def painted(cloud_hw: NDArray[np.bool_], valid_hw: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a mask as colours (h, w, 3)."""
    colours = np.array([CLEAR, CLOUD, UNKNOWN], np.float32)
    return colours[np.where(valid_hw, cloud_hw.astype(np.intp), 2)]
