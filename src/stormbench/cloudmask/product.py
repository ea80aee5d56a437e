"""Reads one SLSTR level 1 product, a `.SEN3` folder, into a Frame: the whole conversion, in memory.

    frame = read_frame("S3A_SL_1_RBT____..._004.SEN3")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stormbench.cloudmask import names
from stormbench.cloudmask.adjust import as_text, factors_of
from stormbench.cloudmask.frame import BTS, REFS, Frame
from stormbench.cloudmask.geometry import Grid, SunElevation, tie_position
from stormbench.cloudmask.netcdf import NetCDF, Variable, explained, filled, sizes
from stormbench.cloudmask.plausible import IRRADIANCE, check_packing, check_radiance, check_temperature, zenith_or_nan
from stormbench.cloudmask.radiometry import NO_DETECTOR, BlockMeans, Channel, interleaved, reflectance, sun_factor
from stormbench.core.errors import RunError, UserError

__all__ = ["FILES", "Grid", "Product", "open_product", "read_frame", "reflectance", "tie_position"]

FILES = (
    *(f"{name}_radiance_an.nc" for name in REFS),
    *(f"{name}_quality_an.nc" for name in REFS),
    *(f"{name}_BT_in.nc" for name in BTS),
    "flags_in.nc",
    "geometry_tn.nc",
    "indices_an.nc",
)
"""The files of a product that its conversion reads."""
SUMMARY, DAY, UNFILLED = "summary_cloud", "day", "unfilled"
"""The flags of `confidence_in` that are used, by their names in `flag_meanings`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Flags:
    """What the flags of a product say of the pixels of its 1 km grid (h, w)."""

    bayes_hw: NDArray[np.uint8]
    summary_hw: NDArray[np.uint8]
    unfilled_hw: NDArray[np.bool_]
    day: bool
    """Whether all pixels have the flag."""
    bayes_bits: dict[str, int]
    """Masks of `bayes_hw` by their meanings."""
    comment: str
    """What the file says of itself, such as that it was generated."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product whose name has been understood; its files are opened as they are needed."""

    folder: Path
    name: names.ProductName

    def frame(self, *, adjust: str | Sequence[float] = "auto", rads: bool = False, half: bool = False) -> Frame:
        """Return the product on its 1 km grid.

        `adjust` says by which factors the radiances of S1 to S6 are adjusted: `auto` goes by the processing baseline,
        see `adjust.factors_of`. With `rads` the frame has radiances too, adjusted alike. With `half` its numbers are in
        half precision, for who only writes them to a file of that precision.

        Raises:
            RunError: a file is missing, damaged, or doesn't fit the others; it is named.
        """
        factors = factors_of(adjust, self.name)
        bts_chw, shape = self._temperatures()
        flags = self._flags(shape)
        bts_chw[:, flags.unfilled_hw] = np.nan
        refs_chw, rads_chw = self._light(shape, factors, rads)
        about = {
            "source": f"{self.name.text}.SEN3",
            "mission": self.name.mission,
            "baseline": self.name.baseline,
            "start_time": self.name.start.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "stop_time": self.name.stop.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "adjustment": as_text(factors),
            "bayes_bits": " ".join(f"{meaning}={mask}" for meaning, mask in flags.bayes_bits.items()),
            **({"comment": flags.comment} if flags.comment else {}),
        }
        dtype = np.dtype(np.float16 if half else np.float32)
        return Frame(
            refs_hwc=interleaved(refs_chw, dtype),
            bts_hwc=interleaved(bts_chw, dtype),
            rads_hwc=None if rads_chw is None else interleaved(rads_chw, dtype),
            bayes_hw=flags.bayes_hw,
            summary_hw=flags.summary_hw,
            day=flags.day,
            about=about,
        )

    def _temperatures(self) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Return the brightness temperatures (3, h, w) and the shape of the 1 km grid, which is that of the first file."""
        bts_chw: NDArray[np.float32] | None = None
        shape: tuple[int, int] | None = None
        for index, name in enumerate(BTS):
            with NetCDF(self.folder / f"{name}_BT_in.nc") as file:
                variable = file.variable(f"{name}_BT_in", shape, f"{BTS[0]}_BT_in" if shape else "")
                shape = _two_dimensions(variable)
                raw, packing = variable.raw(), variable.packing()
            check_packing(variable, packing, "temperature")
            if bts_chw is None:
                bts_chw = np.empty((len(BTS), *shape), np.float32)
            with explained(variable.path, variable.name):
                kelvin = bts_chw[index]
                np.copyto(kelvin, raw, casting="unsafe")
                kelvin *= np.float32(packing.scale)
                kelvin += np.float32(packing.offset)
                np.copyto(kelvin, np.nan, where=filled(raw, packing.fills))
            check_temperature(variable, kelvin)
        assert bts_chw is not None and shape is not None
        return bts_chw, shape

    def _flags(self, shape: tuple[int, int]) -> Flags:
        like = f"{BTS[0]}_BT_in"
        with NetCDF(self.folder / "flags_in.nc") as file:
            bits, masks = file.variable("confidence_in", shape, like).flags()
            bayes = file.variable("bayes_in", shape, like)
            bayes_bits, meanings, comment = bayes.raw(), bayes.masks(), file.comment()
        for meaning in (SUMMARY, DAY, UNFILLED):
            if meaning not in masks:
                raise RunError(f"{file.path}: confidence_in has no flag {meaning} among its flag_meanings; get the product anew")
        if bayes.dtype.kind == "f" or (bayes_bits.itemsize > 1 and bayes_bits.max() > np.iinfo(np.uint8).max):
            raise RunError(f"{bayes.path}: {bayes.name} must hold bits in one byte, it holds {bayes.dtype}; get the product anew")
        return Flags(
            bayes_hw=bayes_bits.astype(np.uint8, copy=False),
            summary_hw=((bits & masks[SUMMARY]) != 0).view(np.uint8),
            unfilled_hw=(bits & masks[UNFILLED]) != 0,
            day=bool(np.bitwise_and.reduce(bits, axis=None) & masks[DAY]),
            bayes_bits=meanings,
            comment=comment,
        )

    def _light(
        self, shape: tuple[int, int], factors: Sequence[float], rads: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return the reflectances, and the radiances where they are wanted, (6, h, w) each."""
        fine = (2 * shape[0], 2 * shape[1])
        means: BlockMeans | None = None
        grid: Grid | None = None
        raw = np.empty(0, np.int16)
        refs_chw = np.empty((len(REFS), *shape), np.float32)
        rads_chw = np.empty_like(refs_chw) if rads else None
        for index, name in enumerate(REFS):
            with NetCDF(self.folder / f"{name}_radiance_an.nc") as file:
                variable = file.variable(f"{name}_radiance_an", fine, f"the 500 m grid over {BTS[0]}_BT_in")
                own_grid = _grid(file)
                channel = Channel(packing=variable.packing(), adjustment=factors[index], irradiance=self._irradiance(name))
                check_packing(variable, channel.packing, "radiance")
                if means is None:
                    grid = own_grid
                    means = self._block_means(fine, grid, len(channel.irradiance))
                if own_grid != grid:
                    raise RunError(f"{file.path}: lies at {own_grid}, {REFS[0]}_radiance_an.nc at {grid}; get the product anew")
                if not rads and not means.any_light:
                    # at night nothing of the light is used, so that its chunks need not be inflated
                    refs_chw[index] = np.nan
                    continue
                raw = variable.raw(raw if raw.shape == fine and raw.dtype == variable.dtype else None)
            check_radiance(variable, raw, channel)
            with explained(variable.path, variable.name):
                means.reflectances(raw, channel, refs_chw[index])
                if rads_chw is not None:
                    means.radiances(raw, channel, rads_chw[index])
        return refs_chw, rads_chw

    def _block_means(self, fine: tuple[int, int], grid: Grid, n_detectors: int) -> BlockMeans:
        """Return what turns stored radiances into means, ready with the sun and the detector of every 500 m pixel."""
        detector_hw = self._detectors(fine, n_detectors)
        with NetCDF(self.folder / "geometry_tn.nc") as file:
            zenith = file.variable("solar_zenith_tn")
            _two_dimensions(zenith)
            degrees, tie_grid = zenith_or_nan(zenith), _grid(file)
        with explained(file.path, zenith.name):
            elevation = SunElevation(degrees, fine, grid, tie_grid)
        if not elevation.inside:
            at = f"start_offset {tie_grid.start_offset:g} and track_offset {tie_grid.track_offset:g}"
            raise RunError(f"{file.path}: its tie points at {at} don't cover the image at {grid}; get the product anew")
        return BlockMeans(detector_hw, n_detectors, sun_factor(elevation, detector_hw))

    def _detectors(self, fine: tuple[int, int], n_detectors: int) -> NDArray[np.uint8]:
        """Return the number of the detector that saw each 500 m pixel (h, w), NO_DETECTOR where none did."""
        with NetCDF(self.folder / "indices_an.nc") as file:
            variable = file.variable("detector_an", fine, "the radiances")
            raw, packing = variable.raw(), variable.packing()
        if variable.dtype.kind == "f" or packing.scale != 1 or packing.offset != 0:
            raise RunError(f"{variable.path}: detector_an must hold whole numbers, it holds {variable.dtype}, scaled; get the product anew")
        with explained(variable.path, variable.name):
            none = filled(raw, packing.fills or (NO_DETECTOR,))
            wrong = (raw < 0) | (raw >= n_detectors)
            wrong &= ~none
            if wrong.any():
                worst = f"detector {int(raw[wrong].max())}, the product has detectors 0 to {n_detectors - 1}"
                raise RunError(f"{variable.path}: detector_an names {worst}; get the product anew")
            detector_hw = np.ascontiguousarray(raw.astype(np.uint8, copy=False))
            detector_hw[none] = NO_DETECTOR
            return detector_hw

    def _irradiance(self, name: str) -> NDArray[np.float64]:
        """Return a channel's solar irradiance by detector in mW m-2 nm-1, NaN where it isn't known."""
        with NetCDF(self.folder / f"{name}_quality_an.nc") as file:
            variable = file.variable(f"{name}_solar_irradiance_an")
            values = variable.values().ravel()
        least, most = IRRADIANCE
        with np.errstate(invalid="ignore"):
            values[~((values >= least) & (values <= most))] = np.nan
        if len(values) >= NO_DETECTOR or np.isnan(values).all():
            found = f"none of {len(values)} detectors with an irradiance of {least:g} to {most:g}"
            raise RunError(f"{file.path}: {variable.name} has {found}; get the product anew")
        return values


def open_product(folder: str | os.PathLike[str]) -> Product:
    """Return the product in a `.SEN3` folder.

    Raises:
        RunError: there is no such folder, or its name isn't that of an SLSTR level 1 product.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RunError(f"{path}: not a folder; give a product's .SEN3 folder, extracted from its archive")
    try:
        name = names.parse(path.resolve().name if path.name in ("", "..") else path.name)
    except UserError as error:
        raise RunError(f"{path}: {error}") from error
    return Product(folder=path, name=name)


def read_frame(folder: str | os.PathLike[str], *, adjust: str | Sequence[float] = "auto", rads: bool = False) -> Frame:
    """Return the product in a `.SEN3` folder on its 1 km grid; see `Product.frame`."""
    return open_product(folder).frame(adjust=adjust, rads=rads)


def _two_dimensions(variable: Variable) -> tuple[int, int]:
    if len(variable.shape) != 2:
        found = f"has the dimensions {sizes(variable.shape)}"
        raise RunError(f"{variable.path}: {variable.name} {found}, must have rows and columns; get the product anew")
    return variable.shape[0], variable.shape[1]


def _grid(file: NetCDF) -> Grid:
    """Return where the variables of a file lie.

    `resolution` holds the two steps in metres. They differ only on the tie grid, whose points are far apart across
    the track and close along it, so the larger is the step across, in whichever order they are written.
    """
    steps: Any = sorted(file.numbers("resolution"))
    if len(steps) != 2 or not 0 < steps[0] <= steps[1] < 1e6:
        raise RunError(f"{file.path}: global attribute resolution holds {steps}, must hold two steps in metres; get the product anew")
    return Grid(
        step_along=steps[0], step_across=steps[1], start_offset=file.number("start_offset"), track_offset=file.number("track_offset")
    )
