"""The DAVIS-2016 measure of how steady a mask's outline is from frame to frame (T).

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, in the form of the released evaluator. The outlines of two consecutive masks of the same
prediction are described by shape contexts and matched along their length; T is five times the mean
cost of the matched pairs, a pure number, 0 for an outline that moves without changing its shape.
Lower is steadier. No annotation is used.

Outlines run along the edges of pixels: a corner is (x, y) in pixels, (0, 0) the picture's upper
left. Points are single precision and added up step by step, as in the original, because the bins
of a shape context hang on the last digit where points lie in a row or column.

Only numpy is imported here: worker processes start quickly.
"""

from collections.abc import Iterable
from itertools import pairwise
from math import ceil, hypot, inf, nan
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

RADII = np.logspace(np.log10(1 / 8), np.log10(2), 5)
"""Outer radii of a shape context's rings, in mean distances of two points of the outline."""

ANGLES = 12
BINS = len(RADII) * ANGLES
SCALE = 5

BLOCK = 32
"""Rows of a shape context made at once: what fits a processor's cache."""


def temporal_instability(masks: Iterable[np.ndarray]) -> tuple[float, list[float]]:
    """T of a sequence, and that of each of its pairs of consecutive masks, in order.

    T is the mean over the pairs, without those that have none (NaN, see `instability_of_pair`); NaN
    if no pair has one. The masks [H, W] are read one by one and only the last one's outline is
    kept. The benchmark gives the frames 1..N-2 of N, and counts the sequences flagged `eval_t`.
    """
    pairs: list[float] = []
    before, shape = None, None
    for mask in masks:
        if shape is not None and np.shape(mask) != shape:
            raise ValueError(
                f"A mask is {np.shape(mask)}, those before it {shape}; give masks of one video, "
                f"all of one size."
            )
        now = _described(mask)
        if shape is not None:
            pairs.append(_instability(before, now))
        before, shape = now, mask.shape
    valid = [value for value in pairs if value == value]
    return (float(np.mean(valid)) if valid else nan), pairs


def instability_of_pair(a: np.ndarray, b: np.ndarray) -> float:
    """T of two consecutive masks [H, W]; NaN where one has no outline of a square of 3 pixels."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"The masks are {np.shape(a)} and {np.shape(b)}; [H, W] of both.")
    return _instability(_described(a), _described(b))


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


def shape_context(points: np.ndarray) -> np.ndarray:
    """Where the other points lie, seen from each: [n, 2] -> [n, 60], every row sums to 1.

    Rows are histograms over 12 directions of 30 degrees by 5 rings, `RADII` times the mean of all
    n x n distances (Belongie et al., "Shape Matching and Object Recognition Using Shape Contexts",
    PAMI 2002). Points further away count nowhere; a point counts for itself, in the innermost ring.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or np.ptp(points, 0).max() == 0:
        raise ValueError(f"The points are {points.shape}; it takes two different ones [n, 2].")
    points = points.astype(np.float64)
    blocks = [points[row : row + BLOCK] for row in range(0, len(points), BLOCK)]
    mean = sum(_offsets(block, points)[2].sum() for block in blocks) / len(points) ** 2
    return np.concatenate([_histograms(block, points, mean) for block in blocks])


def _offsets(block: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From points [m, 2] to points [n, 2]: columns, rows and distances, each [m, n]."""
    dx, dy = (points[:, axis] - block[:, axis, None] for axis in (0, 1))
    return dx, dy, np.sqrt(dx * dx + dy * dy)


def _histograms(block: np.ndarray, points: np.ndarray, mean: float) -> np.ndarray:
    """Rows [m, 60] of a shape context, of which the points of a block [m, 2] are the centres."""
    dx, dy, distance = _offsets(block, points)
    distance /= mean
    ring = np.zeros(distance.shape, np.int8)
    for radius in RADII:
        ring += distance < radius
    angle = np.arctan2(dy, dx)
    angle[angle < 0] += 2 * np.pi
    direction = np.minimum((angle / (2 * np.pi / ANGLES)).astype(np.int64), ANGLES - 1)
    bins = np.arange(len(block))[:, None] * BINS + direction * len(RADII) + ring - 1
    counts = np.bincount(bins[ring > 0], minlength=len(block) * BINS).reshape(-1, BINS)
    return counts / counts.sum(axis=1, keepdims=True)


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


def _described(mask: np.ndarray) -> np.ndarray | None:
    """The shape context of a mask's outline; None without one."""
    points = contour(mask)
    return None if points is None else shape_context(points)


def _instability(a: np.ndarray | None, b: np.ndarray | None) -> float:
    """T of two outlines' shape contexts."""
    if a is None or b is None:
        return nan
    costs = _costs(a, b)
    start = _cheapest(costs, _path(costs))
    rolled = np.roll(costs, (-start[0] - 1, -start[1] - 1), axis=(0, 1))
    return SCALE * _mean_of_matches(rolled, _path(rolled))


def _costs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Half the chi-square distance of histograms, [m, 60], [n, 60] -> [m, n] in [0, 1].

    As both sum to 1 it is 2 sum a^2 / (a + b) - 1, and only bins with a > 0 count, half of them.
    Rounded, so that what is equal stays equal.
    """
    columns = np.ascontiguousarray(b.T)
    room, costs = np.empty(columns.shape), np.empty((len(a), len(b)))
    for row, histogram in zip(costs, a, strict=True):
        filled = np.flatnonzero(histogram)
        share = histogram[filled]
        total = np.take(columns, filled, axis=0, out=room[: len(filled)], mode="clip")
        total += share[:, None]
        np.divide(1, total, out=total)
        np.dot(share * share, total, out=row)
    return np.round(2 * costs - 1, 12)


def _path(costs: np.ndarray) -> np.ndarray:
    """The cheapest path through costs [m, n] from the first to the last cell, cells [length, 2].

    A step goes to the next row, the next column or both, and pays for the cell it enters. All
    cells of an anti-diagonal are found at once, so sums are added in the order of the path.
    """
    m, n = costs.shape
    skewed = np.full((m, m + n), inf)  # row i moved right by i: a column is an anti-diagonal
    skewed[:, :n] = np.rint(costs * 1e12)  # whole numbers: sums are exact, so equals are equal
    sums = np.full((m + n - 1, m + 1), inf)  # column 0 is outside, row i is in column i + 1
    sums[:, 1:] = skewed.reshape(-1)[: m * (m + n - 1)].reshape(m, m + n - 1).T
    sums[0, 1] = 0
    last = np.full(m + 1, inf)
    for s in range(1, m + n - 1):
        low, high = max(s - n + 1, 0), min(s, m - 1) + 1
        last, before = sums[s - 1], last
        best = np.minimum(last[low:high], last[low + 1 : high + 1])
        np.minimum(best, before[low:high], out=best)
        now = sums[s, low + 1 : high + 1]
        np.add(now, best, out=now)
    return _walked_back(sums[:, 1:], m, n)


def _walked_back(sums: np.ndarray, m: int, n: int) -> np.ndarray:
    """The cells of the cheapest path, given the sums to each cell, by anti-diagonals."""
    i, j = m - 1, n - 1
    cells = [(i, j)]
    while i or j:
        both = sums[i + j - 2, i - 1] if i and j else inf
        row = sums[i + j - 1, i - 1] if i else inf
        column = sums[i + j - 1, i] if j else inf
        if column <= row and column <= both:
            j -= 1
        elif row <= both:
            i -= 1
        else:
            i, j = i - 1, j - 1
        cells.append((i, j))
    return np.array(cells[::-1])


def _cheapest(costs: np.ndarray, path: np.ndarray) -> tuple[int, int]:
    """The cheapest cell of a path but its first one, the last of equals."""
    cells = path[:0:-1] if len(path) > 1 else path
    i, j = cells[np.argmin(costs[tuple(cells.T)])]
    return int(i), int(j)


def _mean_of_matches(costs: np.ndarray, path: np.ndarray) -> float:
    """The mean cost of a path's cells after each row, then each column keeps its cheapest one."""
    cost = costs[tuple(path.T)]
    for axis in (0, 1):
        order = np.lexsort((cost, path[:, axis]))
        kept = order[np.unique(path[order, axis], return_index=True)[1]]
        path, cost = path[kept], cost[kept]
    return float(cost.mean())
