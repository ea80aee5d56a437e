"""Draws random fields with a power-law spectrum that run on without a seam from one frame of an orbit to the next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

BLOCK_ROWS = 64
"""Rows of nodes that share a generator, counted from the start of the orbit, so that neighbouring frames draw the same nodes."""
_MARGIN = 2
_CUBIC = 151 / 315
"""Mean square of a cubic B-spline on unit nodes of white noise, along one axis."""


def fractal(
    key: tuple[int, ...], first_row: int, height: int, width: int, *, coarsest: int, finest: int = 0, hurst: float = 1 / 3
) -> Plane:
    """Return a field (height, width) of mean 0 and variance 1, float32, a pure function of its arguments.

    It is a sum of octaves of white noise, smoothed by cubic B-splines on nodes 2**coarsest to 2**finest pixels apart. The amplitude
    of an octave grows with spacing ** `hurst`, so that power falls with wavenumber as k ** -(2 * hurst + 1) along a line: 1/3 gives
    the -5/3 of turbulence. A cubic B-spline is a sum of cubic B-splines of half its width (the two-scale relation), so each
    octave is refined and the next added to it, at the cost of little more than the finest alone.

    Args:
        key: non-negative integers that name the field, such as seed, orbit and number.
        first_row: row of the orbit at which the frame begins; frames that overlap there agree.
        coarsest: exponent of the largest spacing.
        finest: exponent of the smallest spacing, at least 0.
        hurst: growth of the increments with distance, from 0 to 1.
    """
    levels = range(coarsest, finest - 1, -1)
    variance = sum(4.0 ** (hurst * level) for level in levels) * _CUBIC**2
    nodes: Plane | None = None
    for level in range(coarsest, -1, -1):
        top, bottom = _span(first_row, height, level)
        left, right = _span(0, width, level)
        if nodes is not None:
            above, beside = _span(first_row, height, level + 1)[0], _span(0, width, level + 1)[0]
            nodes = _refined(_refined(nodes, 0, top - 2 * above, bottom - top), 1, left - 2 * beside, right - left)
        if level >= finest:
            noise = _nodes((*key, level), top, bottom, right - left)
            noise *= np.float32(2.0 ** (hurst * level) / variance**0.5)
            nodes = noise if nodes is None else np.add(nodes, noise, out=noise)
    assert nodes is not None
    return _at_nodes(_at_nodes(nodes, 0, height), 1, width)


def _span(first: int, count: int, level: int) -> tuple[int, int]:
    """Return the range of nodes of a level that bear on pixels first to first + count, with room for the next refinement."""
    spacing = 2**level
    return first // spacing - _MARGIN, -(-(first + count) // spacing) + _MARGIN + 1


def _nodes(key: tuple[int, ...], top: int, bottom: int, width: int) -> Plane:
    """Return white noise for node rows top to bottom, drawn in blocks that start at multiples of BLOCK_ROWS."""
    first, last = top // BLOCK_ROWS, (bottom - 1) // BLOCK_ROWS
    # blocks may have negative numbers, which a seed may not
    blocks = [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence((*key, block + 1)))).standard_normal((BLOCK_ROWS, width), np.float32)
        for block in range(first, last + 1)
    ]
    return np.concatenate(blocks)[top - first * BLOCK_ROWS : bottom - first * BLOCK_ROWS].copy()


def _refined(nodes: Plane, axis: int, offset: int, count: int) -> Plane:
    """Return `count` coefficients at half the spacing along an axis, from fine index `offset` on, where fine 0 lies at coarse 0."""
    before, here, after = (_cut(nodes, axis, slice(start, stop)) for start, stop in ((0, -2), (1, -1), (2, None)))
    shape = list(nodes.shape)
    shape[axis] = 2 * here.shape[axis]
    fine = np.empty(shape, np.float32)
    # the mask 1 4 6 4 1 over 8
    even, odd = (_cut(fine, axis, slice(start, None, 2)) for start in (0, 1))
    np.add(before, after, out=even)
    even *= np.float32(0.125)
    even += here * np.float32(0.75)
    np.add(here, after, out=odd)
    odd *= np.float32(0.5)
    # fine's first lies at coarse 1
    return _cut(fine, axis, slice(offset - 2, offset - 2 + count))


def _at_nodes(nodes: Plane, axis: int, count: int) -> Plane:
    """Return the spline's values along an axis at `count` pixels, where nodes lie."""
    before, here, after = (_cut(nodes, axis, slice(start, start + count)) for start in (_MARGIN - 1, _MARGIN, _MARGIN + 1))
    values = before + after
    values *= np.float32(0.25)
    values += here
    values *= np.float32(4 / 6)
    return values


def _cut(plane: Plane, axis: int, part: slice) -> Plane:
    return plane[part] if axis == 0 else plane[:, part]
