"""Outline of a mask along the borders of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pixel_outline(mask: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Closed polygon that encloses exactly the pixels of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, columns)

    Returns
    -------
    ndarray, shape (points, 2), or None
        Column and row of the corners, in pixels from the upper left corner of the first pixel; the last point
        equals the first. None if the mask is empty, has several parts, or has a hole.
    """
    padded = np.pad(mask, 1)
    # Edges run clockwise around the mask, so that one edge leaves each corner of a single outline. Each line gives
    # the direction, and the corner where the edge begins.
    starts = {
        (0, 1): np.argwhere(padded[1:] & ~padded[:-1]) - [0, 1],  # above a pixel, to the right
        (1, 0): np.argwhere(padded[:, :-1] & ~padded[:, 1:]) - [1, 0],  # right of it, downwards
        (0, -1): np.argwhere(padded[:-1] & ~padded[1:]),  # below it, to the left
        (-1, 0): np.argwhere(padded[:, 1:] & ~padded[:, :-1]),  # left of it, upwards
    }
    leaving = {tuple(start): direction for direction, each in starts.items() for start in each.tolist()}
    edges = sum(map(len, starts.values()))
    if not edges or len(leaving) < edges:  # empty, or parts that touch at a corner
        return None
    first = here = min(leaving)
    corners, walked = [first], 0
    while walked == 0 or here != first:
        direction = leaving[here]
        here, walked = (here[0] + direction[0], here[1] + direction[1]), walked + 1
        if here != first and leaving[here] != direction:
            corners.append(here)
    if walked < edges:  # another part, or a hole, has edges of its own
        return None
    return np.array([*corners, first], dtype=np.float64)[:, ::-1]
