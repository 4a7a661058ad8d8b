"""The outline of a mask along the edges of its pixels, as the measure T has it.

Corners are (x, y) in pixels, (0, 0) the picture's upper left. Points are single precision and added
up step by step, as in the original, because the bins of a shape context hang on the last digit
where points lie in a row or column.
"""

from itertools import pairwise
from math import ceil, hypot
from typing import NamedTuple

import numpy as np

Corner = tuple[int, int]


class Walk(NamedTuple):
    """A closed curve from corner to corner, the first one twice.

    Attributes:
        corners: (x, y) in pixels.
        onwards: Whether the foreground is to the right.
        touched: Whether another curve passes one of the corners.
    """

    corners: list[Corner]
    onwards: bool
    touched: bool


TOLERANCES = (0.1, 3)
"""How far an outline is simplified, twice, in half pixels."""


SPACING = 3
"""Longest distance of neighbouring points of an outline, in pixels."""


def contour(mask: np.ndarray) -> np.ndarray | None:
    """The points [n, 2] of a mask's most angular outline, (x, y) in pixels, float32.

    Of the simplified outlines, holes included, it is the one with the most vertices, the last of
    equals; clockwise, a hole's the other way; the first point is also the last one. None where
    nothing is left after simplifying, as of an empty mask or a square of 2 pixels.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"The mask is {mask.shape}; it must be [H, W].")
    if mask.dtype != bool and not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"The mask is {mask.dtype}, not labels: threshold it (scores > 0.5).")
    best: list[Corner] = []
    for walk in _walks(_curves(mask != 0)):
        points = 2 * _every_pixel(walk.corners)
        if len(points) // 2 + 2 > len(best):  # more are not left apart
            simple = _simplified(points)
            if len(simple) > max(len(best), 3):
                best = simple if walk.onwards else simple[::-1]
    return _upsampled(best) if best else None


def _curves(mask: np.ndarray) -> list[list[Corner]]:
    """The outlines of a mask as simple closed curves of corners, foreground on the right.

    Foreground hangs together by the pixels' edges. An outline that meets itself at a corner is cut
    there.
    """
    starts, ends, headings = _straights(mask)
    width = mask.shape[1] + 1
    keys = (starts[:, 1] * width + starts[:, 0]) * 4 + headings
    order = np.argsort(keys)
    corners = (ends[:, 1] * width + ends[:, 0]) * 4
    right, left = corners + (headings + 1) % 4, corners + (headings - 1) % 4
    at = np.searchsorted(keys, right, sorter=order)
    turns_right = keys[order[np.minimum(at, max(len(keys) - 1, 0))]] == right
    at = np.where(turns_right, at, np.searchsorted(keys, left, sorter=order))
    following, points = order[at].tolist(), list(map(tuple, starts.tolist()))
    seen, curves = [False] * len(points), []
    for straight in order.tolist():
        curve = []
        while not seen[straight]:
            seen[straight] = True
            curve.append(points[straight])
            straight = following[straight]
        curves += _cut(curve)
    return curves


def _straights(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The straight pieces of all outlines: first corners [n, 2], last ones [n, 2], headings [n].

    A heading is 0 right, 1 down, 2 left, 3 up.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    y, left, right, below = _runs(padded[1:] - padded[:-1])
    x, top, bottom, beside = _runs((padded[:, 1:] - padded[:, :-1]).T)
    starts = np.concatenate(
        [
            np.stack([np.where(below > 0, left, right), y], axis=1),
            np.stack([x, np.where(beside > 0, bottom, top)], axis=1),
        ]
    )
    ends = np.concatenate(
        [
            np.stack([np.where(below > 0, right, left), y], axis=1),
            np.stack([x, np.where(beside > 0, top, bottom)], axis=1),
        ]
    )
    return starts, ends, np.concatenate([np.where(below > 0, 0, 2), np.where(beside > 0, 3, 1)])


def _runs(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of equal values but 0 in the rows of an array whose first and last column are 0.

    Returns row, first and last corner (columns, less the padding), and value of each.
    """
    row, before = np.nonzero(steps[:, 1:] != steps[:, :-1])
    value = steps[row, before + 1]
    starts = np.flatnonzero(value)
    return row[starts], before[starts], before[starts + 1], value[starts]


def _cut(curve: list[Corner]) -> list[list[Corner]]:
    """A closed curve as simple ones: cut in two wherever it meets itself."""
    simple, rest = [], [curve] if curve else []
    while rest:
        whole = rest.pop()
        visits: dict[Corner, int] = {}
        for second, corner in enumerate(whole):
            first = visits.setdefault(corner, second)
            if first != second:
                rest += [whole[first:second], whole[second:] + whole[:first]]
                break
        else:
            simple.append(whole)
    return simple


def _walks(curves: list[list[Corner]]) -> list[Walk]:
    """The curves as the original walks them, those first that it prefers to equals.

    Simplifying depends on where a walk starts and where it goes. It starts at the last corner, in
    reading order, that another curve touches, at its first one if none does; and goes up if it
    can, else left, else down.
    """
    once, touched = set(), set()
    for curve in curves:
        touched |= once.intersection(curve)
        once.update(curve)
    walks = []
    for curve in curves:
        meetings = touched.intersection(curve)
        start = max(meetings, key=_reading) if meetings else min(curve, key=_reading)
        at = curve.index(start)
        corners = curve[at:] + curve[: at + 1]
        onwards = _heading(start, corners[1]) < _heading(start, corners[-2])
        walks.append(Walk(corners if onwards else corners[::-1], onwards, bool(meetings)))
    walks.sort(key=lambda walk: _reading(walk.corners[1]), reverse=True)
    return sorted(walks, key=lambda walk: (not walk.touched, _reading(walk.corners[0])))


def _reading(corner: Corner) -> Corner:
    """What corners are sorted by to be in reading order."""
    return corner[1], corner[0]


def _heading(start: Corner, end: Corner) -> int:
    """Where a straight line goes: 0 up, 1 left, 2 down, 3 right."""
    return (0 if end[1] < start[1] else 2) if end[0] == start[0] else 1 if end[0] < start[0] else 3


def _simplified(points: np.ndarray) -> list[Corner]:
    """The vertices that Douglas and Peucker's method keeps of points [n, 2] in half pixels."""
    for tolerance in TOLERANCES:
        points = points[_apart(points, tolerance)]
        points = points[_kept(points, tolerance)]
    return [(x, y) for x, y in (points // 2).tolist()]


def _every_pixel(corners: list[Corner]) -> np.ndarray:
    """All points with whole coordinates [n, 2] on the straight lines from corner to corner."""
    ends = np.array(corners)
    steps = np.diff(ends, axis=0)
    lengths = np.abs(steps).sum(axis=1)
    steps = np.repeat(np.sign(steps), lengths, axis=0)
    return np.concatenate([ends[:1], ends[0] + np.cumsum(steps, axis=0)])


def _apart(points: np.ndarray, tolerance: float) -> list[int]:
    """Numbers of the points [n, 2] left when those near the last one kept go; both ends stay."""
    kept, (u, v) = [0], points[0].tolist()
    for number, (x, y) in enumerate(points.tolist()):
        if (x - u) ** 2 + (y - v) ** 2 >= tolerance**2:
            kept.append(number)
            u, v = x, y
    return kept if kept[-1] == len(points) - 1 else [*kept, len(points) - 1]


def _kept(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Numbers of the points [n, 2] that a line within the tolerance of all of them goes through.

    A stretch is split at the point farthest from its chord, the last of equals; all stretches at
    once. Which of those on an edge along the chord is farthest is up to rounding: as in the
    original, the place on the chord is a share in single precision, all else is double.
    """
    points = points.astype(np.float64)
    kept = [np.array([0, len(points) - 1])]
    first, last = np.array([0]), np.array([len(points) - 1])
    while True:
        open_ = last - first > 1
        first, last = first[open_], last[open_]
        if not len(first):
            return np.sort(np.concatenate(kept))
        counts = last - first - 1
        begins = np.cumsum(counts) - counts
        own = np.repeat(np.arange(len(first)), counts)
        inner = np.arange(len(own)) - begins[own] + first[own] + 1
        start, chord = points[first], points[last] - points[first]
        length = (chord**2).sum(axis=1)[own]
        along = ((points[inner] - start[own]) * chord[own]).sum(axis=1)
        share = (along / np.maximum(length, 1)).astype(np.float32).astype(np.float64)
        share[along >= length] = 1
        share[along <= 0] = 0
        away = points[inner] - (start[own] + share[:, None] * chord[own])
        squares = (away**2).sum(axis=1)
        most = np.maximum.reduceat(squares, begins)
        farthest = np.maximum.reduceat(np.where(squares == most[own], inner, 0), begins)
        split = most > tolerance**2
        first, last, farthest = first[split], last[split], farthest[split]
        kept.append(farthest)
        first, last = np.concatenate([first, farthest]), np.concatenate([farthest, last])


def _upsampled(vertices: list[Corner]) -> np.ndarray:
    """The vertices, and points between those farther apart than `SPACING`: [n, 2] float32."""
    pieces = []
    for (x, y), (u, v) in pairwise(vertices):
        parts = max(ceil(hypot(u - x, v - y) / SPACING), 1)
        steps = np.empty((parts, 2), np.float32)
        steps[0] = x, y
        steps[1:] = (u - x) / parts, (v - y) / parts
        pieces.append(np.cumsum(steps, axis=0, dtype=np.float32))
    return np.concatenate([*pieces, np.array(vertices[-1:], np.float32)])
