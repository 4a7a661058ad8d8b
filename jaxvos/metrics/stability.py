"""The DAVIS-2016 measure of how steady a mask's outline is from frame to frame (T).

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, in the form of the released evaluator. The outlines of two consecutive masks of the same
prediction are described by shape contexts and matched along their length; T is five times the mean
cost of the matched pairs, a pure number, 0 for an outline that moves without changing its shape.
Lower is steadier. No annotation is used.

Only numpy is imported here: worker processes start quickly.
"""

from collections.abc import Iterable
from math import inf, nan

import numpy as np

from jaxvos.metrics.outlines import contour

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
