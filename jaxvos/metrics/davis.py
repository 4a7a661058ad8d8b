"""The DAVIS measures of one mask against another (J, F) and their statistics over a sequence.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
CVPR 2016, in the form of the released evaluators. Everything is counted in integers, so the numbers
are exact. A mask is [H, W], boolean or integer; every label but 0 is foreground. `void` pixels are
background in both masks.

Only numpy is imported here: worker processes start quickly.
"""

from math import ceil, hypot, isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Statistics(NamedTuple):
    """What DAVIS reports of a measure's values over a sequence.

    Attributes:
        mean: Average over the frames.
        recall: Fraction of the frames whose value is above 0.5.
        decay: Mean of the first quarter less that of the last; positive when quality is lost.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(
    prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None
) -> float:
    """J in [0, 1]: intersection over union of the two foregrounds; 1 when both are empty."""
    predicted, true = _foregrounds(prediction, truth, void)
    union = np.count_nonzero(predicted | true)
    return np.count_nonzero(predicted & true) / union if union else 1.0


def boundary_measure(
    prediction: np.ndarray,
    truth: np.ndarray,
    void: np.ndarray | None = None,
    bound: float = 0.008,
) -> float:
    """F in [0, 1]: harmonic mean of how much of either boundary lies near the other one.

    Args:
        prediction: [H, W] mask.
        truth: [H, W] mask.
        void: [H, W] pixels that are background in both masks, or None.
        bound: How far "near" is; see `boundary_radius`.
    """
    predicted, true = _foregrounds(prediction, truth, void)
    radius = boundary_radius(true.shape, bound)
    box = _box(predicted | true)
    return agreement(outline(predicted[box], radius), outline(true[box], radius))


class Outline(NamedTuple):
    """A mask's boundary and all that is near it, to be compared with those of the same picture.

    Both are pictures of bits, see `_bits`, whose rows are as wide as the picture and the radius.
    """

    edge: int
    near: int


def outline(mask: np.ndarray, radius: int) -> Outline:
    """The boundary of a bool mask [H, W], and what lies within `radius` pixels of it."""
    # The margin of `radius` zeros keeps what leaves a row by its end out of the next one.
    width = mask.shape[1] + radius
    edge = _bits(boundary(mask), width)
    return Outline(edge, _dilated(edge, radius, width))


def agreement(ours: Outline, theirs: Outline) -> float:
    """F of the two masks, in [0, 1]."""
    precision = _matched(ours.edge, theirs.near)
    recall = _matched(theirs.edge, ours.near)
    # An empty boundary is wholly matched and matches nothing: F = 0 against one that is not empty.
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_radius(shape: tuple[int, ...], bound: float = 0.008) -> int:
    """Tolerance in pixels: `bound` times the diagonal of [H, W], rounded up; from 1 on, pixels."""
    if bound < 0 or (bound >= 1 and bound != int(bound)):
        raise ValueError(
            f"The boundary tolerance is a fraction of the diagonal in [0, 1) or a whole number of "
            f"pixels, not {bound!r}."
        )
    return int(bound) if bound >= 1 else ceil(bound * hypot(*shape))


def boundary(mask: np.ndarray) -> np.ndarray:
    """[H, W] bool: the pixels of a bool mask unlike their right, lower or lower right neighbour.

    Neighbours outside the picture do not count, so that a full mask has no boundary.
    """
    edge = np.zeros(mask.shape, bool)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def statistics(values: ArrayLike) -> Statistics:
    """Mean, recall and decay of one value per frame, in order.

    NaN (a frame without a value) is left out of mean and decay, and counts as not recalled.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"Statistics need one value per frame, not an array of {values.shape}.")
    # Frame numbers, from 1, that bound the four quarters; both neighbours include the bound. The
    # released evaluators keep them in 8 bits, which breaks the decay of more than 256 frames.
    bounds = np.round(np.linspace(1, values.size, 5) + 1e-10).astype(int)
    first, last = values[: bounds[1]], values[bounds[3] - 1 :]
    return Statistics(_mean(values), float(np.mean(values > 0.5)), _mean(first) - _mean(last))


def _mean(values: np.ndarray) -> float:
    """Average of those values that are numbers; NaN if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _foregrounds(
    prediction: np.ndarray, truth: np.ndarray, void: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as [H, W] bool, with void pixels as background."""
    masks = {"prediction": prediction, "truth": truth} | ({} if void is None else {"void": void})
    for name, mask in masks.items():
        if mask.ndim != 2 or mask.shape != truth.shape:
            raise ValueError(
                f"The {name} is {mask.shape}, the truth {truth.shape}; [H, W] of both."
            )
        if mask.dtype != bool and not np.issubdtype(mask.dtype, np.integer):
            raise ValueError(
                f"The {name} is {mask.dtype}, not labels: threshold it (scores > 0.5)."
            )
    predicted, true = (mask if mask.dtype == bool else mask != 0 for mask in (prediction, truth))
    if void is None:
        return predicted, true
    counted = void == 0
    return predicted & counted, true & counted


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The part of the picture with the mask and a pixel around it, so with all its boundary."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    return (
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(columns[0] - 1, 0), columns[-1] + 2),
    )


def _bits(mask: np.ndarray, width: int) -> int:
    """The picture as one integer, its rows filled up with zeros to `width` bits.

    Shifting the integer by one bit moves the whole picture by a column, by `width` bits by a row,
    many pixels a machine instruction: this is what makes the exact dilation cheap.
    """
    rows = np.zeros((mask.shape[0], width), bool)
    rows[:, : mask.shape[1]] = mask
    return int.from_bytes(np.packbits(rows, bitorder="little").tobytes(), "little")


def _dilated(picture: int, radius: int, width: int) -> int:
    """The picture dilated by a disk, dy^2 + dx^2 <= radius^2: a stack of spans, the shortest first.

    What is written into the margin of a row means nothing.
    """
    spans, reach, disk = picture, 0, 0
    for dy in range(radius, -1, -1):
        while reach < isqrt(radius**2 - dy**2):
            reach += 1
            spans |= picture << reach | picture >> reach
        disk |= spans << dy * width | spans >> dy * width
    return disk


def _matched(picture: int, region: int) -> float:
    """Fraction of the picture's pixels inside the region; 1 when there are none."""
    count = picture.bit_count()
    return (picture & region).bit_count() / count if count else 1.0
