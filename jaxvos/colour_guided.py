"""Scores sharpened by the frame's own colours: a guided filter, and GrabCut where both are there.

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

from jaxvos.along_motion import Moment
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
AT_ONCE = 6
"""Frames that are looked at side by side."""
T = TypeVar("T")


class Looked(NamedTuple):
    """All that is known of a frame once its colours were looked at; sides as in `reduced`.

    Attributes:
        picture: [h, w, 3] uint8 RGB.
        own: [h, w] float32 in 0..1: what was known before.
        cut: [h, w] float32 in 0..1: GrabCut's answer, carried along the motion.
        settled: [h, w] float32 in 0..1: half of both, drawn to the colours.
    """

    picture: np.ndarray
    own: np.ndarray
    cut: np.ndarray
    settled: np.ndarray


def coloured(
    found: Iterator[Moment],
    pictures: deque[np.ndarray],
    finish: Callable[[Looked], T],
    *,
    along: Callable[[Iterable[Moment]], Iterator[Moment]],
    shorter: int = SHORTER,
) -> Iterator[T]:
    """Each frame after all the steps of this file, as `finish` leaves it.

    GrabCut's answers are carried along the motion like the scores before them; half of both is then
    drawn to the colours.

    Args:
        found: What is known of each frame.
        pictures: Its small picture (`reduced`), there when it is found; taken away when used.
        finish: What is made of it; called side by side for some frames.
        along: What carries scores along the motion, `carried` or `iter`.
        shorter: Pixels of the shorter side of what GrabCut is shown.
    """
    waiting: deque[tuple[np.ndarray, np.ndarray]] = deque()

    def own_cut(picture: np.ndarray, moment: Moment) -> Moment:
        shown = reduced(picture, shorter)
        own = cut(shown, to_size(moment.scores, shown.shape[:2]))
        return moment._replace(scores=to_size(own, moment.scores.shape))

    def finished(pair: tuple[np.ndarray, np.ndarray], moment: Moment) -> T:
        picture, scores = pair
        own, answer = (to_size(x, picture.shape[:2]) for x in (scores, moment.scores))
        mixed = (1 - CUT) * own + CUT * answer
        return finish(Looked(picture, own, answer, settled(picture, mixed)))

    def cuts(pool: ThreadPoolExecutor) -> Iterator[Moment]:
        while together := list(islice(found, AT_ONCE)):
            shown = [pictures.popleft() for _ in together]
            waiting.extend(zip(shown, (moment.scores for moment in together), strict=True))
            yield from pool.map(own_cut, shown, together)

    with ThreadPoolExecutor() as pool:
        followed = along(cuts(pool))
        while together := list(islice(followed, AT_ONCE)):
            yield from pool.map(finished, [waiting.popleft() for _ in together], together)


def reduced(frame: np.ndarray, shorter: int = SHORTER) -> np.ndarray:
    """A frame [H, W, 3] uint8 as colours are looked at: `shorter` pixels high or wide, or less."""
    size = frame.shape[1::-1]
    factor = min(shorter / min(size), 1.0)
    small = tuple(max(round(side * factor), 1) for side in size)
    return cv2.resize(frame, small, interpolation=cv2.INTER_AREA)


def cut(picture: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """GrabCut's foreground [H, W] float32 in {0, 1}; the scores' where one side has no pixels.

    Args:
        picture: [H, W, 3] uint8 RGB.
        scores: [H, W] float32 in 0..1: what the models of colours begin with.
    """
    marks = np.where(scores > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[scores < SURE[0]] = cv2.GC_BGD
    marks[scores > SURE[1]] = cv2.GC_FGD
    inside = (marks == cv2.GC_PR_FGD) | (marks == cv2.GC_FGD)
    if inside.sum() < 20 or (~inside).sum() < 20:
        return inside.astype(np.float32)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(picture, marks, None, *models, 2, cv2.GC_INIT_WITH_MASK)
    return ((marks == cv2.GC_PR_FGD) | (marks == cv2.GC_FGD)).astype(np.float32)


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
