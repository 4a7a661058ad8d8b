"""The measures of video salient object detection: MAE, F, S and E of a grey map against a mask.

Achanta et al., "Frequency-tuned Salient Region Detection", CVPR 2009 (F); Fan et al., "Structure-
measure", ICCV 2017 (S); Fan et al., "Enhanced-alignment Measure", IJCAI 2018 (E). All follow from
how often each of the 256 levels occurs inside and outside the mask, in each of four blocks of the
picture, so that a map is read once and counted in integers.

Only numpy is imported here: worker processes start quickly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVELS = np.arange(256)
EPS = np.finfo(np.float64).eps
BETA2 = 0.3


class MapScores(NamedTuple):
    """The measures of one map; a curve holds one value per threshold, 255 first and 0 last.

    Attributes:
        mae: Mean absolute error.
        s: Structure measure, alpha 0.5.
        adaptive_f: F, beta^2 = 0.3, at twice the map's mean.
        adaptive_e: Enhanced alignment at twice the map's mean.
        precision: [256] float32.
        recall: [256] float32.
        f_curve: [256] float32, F at each threshold.
        e_curve: [256] float32, enhanced alignment at each threshold.
    """

    mae: float
    s: float
    adaptive_f: float
    adaptive_e: float
    precision: np.ndarray
    recall: np.ndarray
    f_curve: np.ndarray
    e_curve: np.ndarray


class _Range(NamedTuple):
    """What the levels mean: level u is the saliency (u - low) / (high - low)."""

    low: int
    high: int


def score_map(prediction: np.ndarray, truth: np.ndarray, normalize: bool = True) -> MapScores:
    """The measures of one map.

    Args:
        prediction: [H, W] uint8, 255 is certainly foreground.
        truth: [H, W] bool, or grey levels that are foreground above 128.
        normalize: Whether to stretch the map to [0, 1] first, unless it is constant.
    """
    mask = _mask(prediction, truth)
    blocks = _count(prediction, mask)
    outside, inside = counts = blocks.sum(axis=0)
    used = np.flatnonzero(counts.any(axis=0))
    stretched = normalize and used.size > 1
    span = _Range(int(used[0]), int(used[-1])) if stretched else _Range(0, 255)
    rates = _rates(_above(counts, span), inside.sum(), outside.sum())
    precision, recall, f, e = rates.astype(np.float32)[:, :-1]
    error = inside @ (span.high - LEVELS) + outside @ (LEVELS - span.low)
    return MapScores(
        mae=float(error / ((span.high - span.low) * mask.size)),
        s=_structure(blocks, span),
        adaptive_f=float(rates[2, -1]),
        adaptive_e=float(rates[3, -1]),
        precision=precision,
        recall=recall,
        f_curve=f,
        e_curve=e,
    )


def summarise_maps(scores: Sequence[MapScores]) -> dict[str, float]:
    """Averages over maps; F_max and E_max are the highest points of the average curves."""
    if not scores:
        raise ValueError("There are no maps to summarise: score one at least.")
    f = np.mean([each.f_curve for each in scores], axis=0, dtype=np.float64)
    e = np.mean([each.e_curve for each in scores], axis=0, dtype=np.float64)
    return {
        "MAE": float(np.mean([each.mae for each in scores])),
        "S": float(np.mean([each.s for each in scores])),
        "F_max": float(f.max()),
        "F_mean": float(f.mean()),
        "F_adaptive": float(np.mean([each.adaptive_f for each in scores])),
        "F_max_per_picture": float(np.mean([float(each.f_curve.max()) for each in scores])),
        "E_max": float(e.max()),
        "E_mean": float(e.mean()),
        "E_adaptive": float(np.mean([each.adaptive_e for each in scores])),
    }


def _mask(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The truth as [H, W] bool, if both are what they should be."""
    if prediction.ndim != 2 or prediction.shape != truth.shape or prediction.size < 2:
        raise ValueError(
            f"The prediction is {prediction.shape}, the truth {truth.shape}; [H, W] of both. "
            f"Resize the map to the truth before it is scored."
        )
    if prediction.dtype != np.uint8:
        raise ValueError(
            f"The prediction is {prediction.dtype}, not uint8 levels. Convert saliency p in [0, 1] "
            f"with np.round(255 * p).astype(np.uint8); for 16 bits, p is the level / 65535."
        )
    if truth.dtype == bool:
        return truth
    if truth.dtype != np.uint8:
        raise ValueError(f"The truth is {truth.dtype}, neither bool nor uint8: give truth > 0.5.")
    mask = truth > 128
    if not mask.any() and truth.any():
        raise ValueError(
            f"The truth has no level above 128, its highest is {truth.max()}: these are labels, "
            f"not grey levels. Give truth != 0."
        )
    return mask


def _count(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[4, 2, 256]: how often each level occurs outside and inside the mask, in each block.

    The blocks (upper left, upper right, lower left, lower right) meet at the mask's centroid.
    """
    y, x = (_centre(mask.sum(axis=axis)) for axis in (1, 0))
    counts = np.zeros((4, 2, 256), np.int64)
    cells = picture | mask.astype(np.uint16) << 8
    for number, rows in enumerate((slice(0, y), slice(y, None))):
        for column, columns in enumerate((slice(0, x), slice(x, None))):
            found = np.bincount(cells[rows, columns].ravel(), minlength=512)
            counts[2 * number + column] = found.reshape(2, 256)
    return counts


def _centre(counts: np.ndarray) -> int:
    """Where the second half begins: behind the mean position, rounded half to even."""
    total = int(counts.sum())
    return round(int(counts @ np.arange(counts.size)) / total) + 1 if total else counts.size


def _above(counts: np.ndarray, span: _Range) -> np.ndarray:
    """[2, 257]: pixels outside and inside the mask that reach each threshold, last the adaptive."""
    # As floats, step by step: the released evaluator truncates what comes out, which puts some
    # stretched levels one lower than exact arithmetic would.
    low, high = span.low / 255, span.high / 255
    steps = ((LEVELS / 255 - low) / (high - low) * 255).astype(int)
    reached = np.zeros((2, 257), np.int64)
    for side, count in enumerate(counts):
        used = np.flatnonzero(count)  # what is not used may lie outside of 0..255
        reached[side, :-1] = np.bincount(steps[used], count[used], 256)[::-1].cumsum()
    total, pixels = (counts.sum(axis=0) @ (LEVELS - span.low)), counts.sum()
    threshold = min(2 * total, (span.high - span.low) * pixels)
    reached[:, -1] = counts[:, (LEVELS - span.low) * pixels >= threshold].sum(axis=1)
    return reached


def _rates(reached: np.ndarray, foreground: int, background: int) -> np.ndarray:
    """[4, 257]: precision, recall, F and enhanced alignment at each threshold."""
    wrong, right = reached.astype(np.float64)
    precision = right / np.maximum(wrong + right, 1)
    recall = right / max(foreground, 1)
    f = (1 + BETA2) * precision * recall / np.maximum(BETA2 * precision + recall, EPS)
    return np.stack([precision, recall, f, _alignment(right, wrong, foreground, background)])


def _alignment(
    right: np.ndarray, wrong: np.ndarray, foreground: int, background: int
) -> np.ndarray:
    """E of binary maps that find `right` pixels of the foreground and `wrong` of the background."""
    pixels = foreground + background
    if not foreground:
        return (pixels - wrong) / (pixels - 1)
    if not background:
        return right / (pixels - 1)
    found, share = (right + wrong) / pixels, foreground / pixels
    total = np.zeros_like(found)
    for b, g, count in (
        (1, 1, right),
        (1, 0, wrong),
        (0, 1, foreground - right),
        (0, 0, background - wrong),
    ):
        ours, theirs = b - found, g - share
        total += count * (2 * ours * theirs / (ours**2 + theirs**2 + EPS) + 1) ** 2 / 4
    # One pixel less than there are, as released: a perfect map gets a little more than 1.
    return total / (pixels - 1)


def _structure(blocks: np.ndarray, span: _Range) -> float:
    """S: how alike the objects are as a whole, and how alike map and mask are in the blocks."""
    outside, inside = blocks.sum(axis=0)
    foreground, pixels = inside.sum(), blocks.sum()
    if foreground in (0, pixels):
        mean = _moments(inside + outside, span)[0]
        return float(mean if foreground else 1 - mean)
    share = foreground / pixels
    mean, deviation = _moments(inside, span)
    objects = share * _uniformity(mean, deviation)
    mean, deviation = _moments(outside, span)
    objects += (1 - share) * _uniformity(1 - mean, deviation)
    regions = sum(block.sum() / pixels * _likeness(block, span) for block in blocks if block.any())
    return float(max(0.0, (objects + regions) / 2))


def _moments(count: np.ndarray, span: _Range) -> tuple[float, float]:
    """Mean and standard deviation (N - 1; 0 of a single pixel) of levels that occur so often."""
    mean = count @ (LEVELS - span.low) / count.sum()
    squares = count @ (LEVELS - span.low - mean) ** 2
    width = span.high - span.low
    return mean / width, (squares / max(count.sum() - 1, 1)) ** 0.5 / width


def _uniformity(mean: float, deviation: float) -> float:
    """How near to 1 and how even the values are."""
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def _likeness(block: np.ndarray, span: _Range) -> float:
    """Structural similarity of map and mask in one block [2, 256]: means, contrasts, correlation.

    The mean is one of whole numbers, so that a flat block varies by exactly 0 and is alike wherever
    there is no foreground. The released evaluator decides that by its rounding error, and only for
    black and white blocks surely so.
    """
    both, width = block.sum(axis=0), span.high - span.low
    pixels, inside = both.sum(), block[1].sum()
    levels = LEVELS - span.low
    mean, share = both @ levels / pixels, inside / pixels
    covariance = block[1] @ (levels - mean) / width
    variance = both @ (levels - mean) ** 2 / width**2 + inside * (1 - share)
    mean = mean / width
    above = 4 * mean * share * covariance / (pixels - 1 + EPS)
    below = (mean**2 + share**2) * variance / (pixels - 1 + EPS)
    if above == 0:
        return 1.0 if below == 0 else 0.0
    return above / (below + EPS)
