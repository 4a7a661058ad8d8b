"""Scores sharpened by the frame's own colours: GrabCut, its models of colours, a guided filter.

Cheap steps for scores whose outlines are soft or a few pixels off, such as those of motion. He,
Sun, Tang, "Guided Image Filtering", TPAMI 2013; Rother, Kolmogorov, Blake, "GrabCut", 2004 (as
OpenCV has it).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from jaxvos.along_motion import Moment, logits
from jaxvos.inference import to_size

SHORTER = 240
"""Pixels of the shorter side that colours are looked at with; smaller frames keep their size."""
RADIUS, EPS = 12, 2e-4
ROUNDS = 3
PULL = 4.0
"""What the filtered scores count in a round, beside the logit of the given ones."""
SURE = (0.02, 0.95)
"""Scores below and above which GrabCut changes nothing."""
CUT = 0.5
"""The share of GrabCut's answer in the scores that then follow the frame's colours."""
LIKELY = 2.0
"""By how much the likelihood of a place's colour changes a logit at most."""
AT_ONCE = 6
"""Frames that are looked at side by side."""
T = TypeVar("T")


class Looked(NamedTuple):
    """All that is known of a frame once its colours were looked at; sides as in `reduced`.

    Attributes:
        picture: [h, w, 3] uint8 RGB.
        own: [h, w] float32 in 0..1: what was known before.
        matched: [h, w] float32 in 0..1: `matched` to the colours, carried along the motion.
        settled: [h, w] float32 in 0..1: these drawn to the colours.
    """

    picture: np.ndarray
    own: np.ndarray
    matched: np.ndarray
    settled: np.ndarray


class Cut(NamedTuple):
    """GrabCut's answer.

    Attributes:
        foreground: [H, W] float32 in {0, 1}.
        colours: The mixtures of colours of background and foreground, [1, 65] each: 5 weights, 5
            means, 5 covariances; None where one of them has no pixels to be learned from.
    """

    foreground: np.ndarray
    colours: tuple[np.ndarray, np.ndarray] | None


def coloured(
    found: Iterator[Moment],
    pictures: deque[np.ndarray],
    finish: Callable[[Looked], T],
    *,
    along: Callable[[Iterable[Moment]], Iterator[Moment]],
    shorter: int = SHORTER,
) -> Iterator[T]:
    """Each frame after all the steps of this file, as `finish` leaves it.

    Scores are matched to the colours, carried along the motion like those before them, and drawn to
    the colours.

    Args:
        found: What is known of each frame.
        pictures: Its small picture (`reduced`), there when it is found; taken away when used.
        finish: What is made of it; called side by side for some frames.
        along: What carries scores along the motion, `carried` or `iter`.
        shorter: Pixels of the shorter side of what GrabCut is shown.
    """
    waiting: deque[tuple[np.ndarray, np.ndarray]] = deque()

    def follow(picture: np.ndarray, moment: Moment) -> Moment:
        return moment._replace(scores=matched(reduced(picture, shorter), moment.scores))

    def finished(pair: tuple[np.ndarray, np.ndarray], moment: Moment) -> T:
        picture, scores = pair
        own, found = (to_size(x, picture.shape[:2]) for x in (scores, moment.scores))
        return finish(Looked(picture, own, found, settled(picture, found)))

    def followed(pool: ThreadPoolExecutor) -> Iterator[Moment]:
        while together := list(islice(found, AT_ONCE)):
            shown = [pictures.popleft() for _ in together]
            waiting.extend(zip(shown, (moment.scores for moment in together), strict=True))
            yield from pool.map(follow, shown, together)

    with ThreadPoolExecutor() as pool:
        heard = along(followed(pool))
        while together := list(islice(heard, AT_ONCE)):
            yield from pool.map(finished, [waiting.popleft() for _ in together], together)


def reduced(frame: np.ndarray, shorter: int = SHORTER) -> np.ndarray:
    """A frame [H, W, 3] uint8 as colours are looked at: `shorter` pixels high or wide, or less."""
    size = frame.shape[1::-1]
    factor = min(shorter / min(size), 1.0)
    small = tuple(max(round(side * factor), 1) for side in size)
    return cv2.resize(frame, small, interpolation=cv2.INTER_AREA)


def matched(picture: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores [h, w] float32 in 0..1, half of them GrabCut's, by how likely each place's colour is.

    What GrabCut takes away for its colour alone stays if the scores are sure of it, and thin limbs
    that it smooths away come back if their colours are the object's.

    Args:
        picture: [H, W, 3] uint8 RGB, of any sides.
        scores: [h, w] float32 in 0..1.
    """
    size = scores.shape
    found = cut(picture, to_size(scores, picture.shape[:2]))
    mixed = (1 - CUT) * scores + CUT * to_size(found.foreground, size)
    if found.colours is None:
        return mixed
    small = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    evidence = likelihood_ratio(small, *found.colours).clip(-LIKELY, LIKELY)
    return 1 / (1 + np.exp(-(logits(mixed) + evidence)))


def cut(picture: np.ndarray, scores: np.ndarray) -> Cut:
    """GrabCut's foreground; the scores' where one side has no pixels.

    Args:
        picture: [H, W, 3] uint8 RGB.
        scores: [H, W] float32 in 0..1: what the models of colours begin with.
    """
    marks = np.where(scores > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[scores < SURE[0]] = cv2.GC_BGD
    marks[scores > SURE[1]] = cv2.GC_FGD
    inside = (marks == cv2.GC_PR_FGD) | (marks == cv2.GC_FGD)
    if inside.sum() < 20 or (~inside).sum() < 20:
        return Cut(inside.astype(np.float32), None)
    colours = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(picture, marks, None, *colours, 2, cv2.GC_INIT_WITH_MASK)
    inside = (marks == cv2.GC_PR_FGD) | (marks == cv2.GC_FGD)
    # On the way one side may lose all its pixels: against nothing any colour is likely.
    both = all(side[0, :5].any() for side in colours)
    return Cut(inside.astype(np.float32), colours if both else None)


def likelihood_ratio(
    picture: np.ndarray, background: np.ndarray, foreground: np.ndarray
) -> np.ndarray:
    """[H, W] float32: log p(colour | foreground) - log p(colour | background).

    Args:
        picture: [H, W, 3] uint8, channels in the mixtures' order.
        background, foreground: Mixtures of five normal distributions as in `Cut`.
    """
    pixels = np.ascontiguousarray(picture.reshape(-1, 3).T, np.float32)
    logs = np.stack([log for side in (background, foreground) for log in _logs(pixels, side)])
    logs -= logs.max(axis=0)
    parts = np.exp(logs).reshape(2, -1, pixels.shape[1]).sum(axis=1) + 1e-20
    return np.log(parts[1] / parts[0]).reshape(picture.shape[:2])


def _logs(pixels: np.ndarray, mixture: np.ndarray) -> Iterator[np.ndarray]:
    """Log densities [N] float32 of pixels [3, N] in a mixture's components, times their weights."""
    weights, means, covariances = np.split(mixture.ravel(), [5, 20])
    parts = zip(weights, means.reshape(5, 3), covariances.reshape(5, 3, 3), strict=True)
    for weight, mean, covariance in parts:
        covariance = covariance + 0.01 * np.eye(3)
        if weight <= 0:  # GrabCut had too few pixels for it
            yield np.full(pixels.shape[1], -np.inf, np.float32)
            continue
        whiten = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.float32)
        away = whiten @ (pixels - mean[:, None].astype(np.float32))
        level = np.log(weight) - 0.5 * np.linalg.slogdet(covariance)[1]
        yield np.float32(level) - 0.5 * (away * away).sum(axis=0)


def settled(picture: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores [H, W] float32 in 0..1 that follow the colours of a picture [H, W, 3] uint8 RGB.

    They are drawn towards their own filtered form, a few times over.
    """
    known = scores.clip(1e-3, 1 - 1e-3)
    own = np.log(known / (1 - known))
    smoothed = _filter(picture.astype(np.float32) / 255, RADIUS, EPS)
    for _ in range(ROUNDS):
        around = smoothed(scores.astype(np.float32)).clip(0, 1)
        scores = 1 / (1 + np.exp(-(own + PULL * (2 * around - 1))))
    return scores.astype(np.float32)


def guided(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Values [H, W] float32 smoothed within windows as a linear function of the guide's colours.

    Args:
        guide: [H, W, 3] float32 in 0..1.
        values: [H, W] float32.
        radius: Windows have 2 radius + 1 pixels a side.
        eps: The variance of colours below which a window counts as plain.
    """
    return _filter(guide, radius, eps)(values)


def _filter(guide: np.ndarray, radius: int, eps: float) -> Callable[[np.ndarray], np.ndarray]:
    """`guided` of one guide, whose own part is worked out once."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    colour = mean(guide)
    r, g, b = np.moveaxis(guide, -1, 0)
    squares = mean(np.stack([r * r, g * g, b * b], axis=-1)) - colour**2 + eps
    crossed = mean(np.stack([g * b, r * b, r * g], axis=-1))
    cr, cg, cb = np.moveaxis(colour, -1, 0)
    gb, rb, rg = np.moveaxis(crossed - np.stack([cg * cb, cr * cb, cr * cg], axis=-1), -1, 0)
    rr, gg, bb = np.moveaxis(squares, -1, 0)
    # The inverse of the symmetric 3 x 3 matrix, by cofactors.
    c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c11, c12, c22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = np.maximum(rr * c00 + rg * c01 + rb * c02, eps**3 / 10)

    def smoothed(values: np.ndarray) -> np.ndarray:
        level = mean(values)
        with_values = mean(guide * values[..., None]) - colour * level[..., None]
        x, y, z = np.moveaxis(with_values, -1, 0)
        rows = (
            c00 * x + c01 * y + c02 * z,
            c01 * x + c11 * y + c12 * z,
            c02 * x + c12 * y + c22 * z,
        )
        slope = np.stack(rows, axis=-1) / determinant[..., None]
        offset = level - (slope * colour).sum(axis=-1)
        return (mean(slope) * guide).sum(axis=-1) + mean(offset)

    return smoothed
