"""Scores carried along a video's motion, both ways in time, so that each frame helps the others.

What moves by itself need not do so in every frame: a head that is held still for a moment is known
by what it did before and does next. And what seems to move in one frame alone is noise. Each score
is drawn towards that of the same thing a frame earlier, as the flow has it, and the same backwards.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxvos.flow.warp import warp

RISE, FALL = 0.8, 0.95
"""How much of a carried logit stays where the frame's own one is higher, and where it is lower:
motion that is seen says more than motion that is not."""
TOLERANCE = 2.0
"""Pixels by which the way there and back may miss until it counts 1 / e."""
BEYOND = 1e3
"""What is added to the gap of ways that leave the picture: such flow is not trusted at all."""
SURE = 0.01
"""Scores are kept this far from 0 and 1."""


class Moment(NamedTuple):
    """What is known of a frame.

    Attributes:
        scores: [h, w] float32 in 0..1.
        back: [h, w, 2] float32: flow to the frame before, in pixels of the scores; of the first
            frame, anything.
        ahead: The same to the frame after; of the last frame, anything.
    """

    scores: np.ndarray
    back: np.ndarray
    ahead: np.ndarray


def carried(moments: Iterable[Moment], *, block: int = 8, margin: int = 12) -> Iterator[np.ndarray]:
    """The scores [h, w] float32 of each frame with what those before and after it say.

    Args:
        moments: The frames in order.
        block: Frames that are answered together.
        margin: How many frames behind them are heard; block + margin are kept.
    """
    if block < 1 or margin < 0:
        raise ValueError(f"block={block}, margin={margin}: at least 1 and 0 frames.")
    kept: deque[tuple[Moment, np.ndarray, np.ndarray]] = deque()  # with logits, own and carried
    before: tuple[Moment, np.ndarray] | None = None
    for moment in moments:
        own = _logits(moment.scores)
        ours = own
        if before is not None:
            ours = _drawn(own, before[1], moment.back, before[0].ahead)
        before = moment, ours
        kept.append((moment, own, ours))
        if len(kept) == block + margin:
            yield from _answers(kept, block)
    yield from _answers(kept, len(kept))


def _answers(
    kept: deque[tuple[Moment, np.ndarray, np.ndarray]], count: int
) -> Iterator[np.ndarray]:
    """Takes the first `count` frames away and answers for them, going backwards from the last."""
    found: deque[np.ndarray] = deque()
    later: tuple[Moment, np.ndarray] | None = None
    for place in range(len(kept) - 1, -1, -1):
        moment, own, ours = kept[place]
        theirs = own
        if later is not None:
            theirs = _drawn(own, later[1], moment.ahead, later[0].back)
        later = moment, theirs
        if place < count:
            found.appendleft(1 / (1 + np.exp(-(ours + theirs) / 2)))
    for _ in range(count):
        kept.popleft()
    yield from found


def _drawn(own: np.ndarray, other: np.ndarray, flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """A frame's own logits drawn to those of its neighbour, where the flow between them agrees."""
    gap = np.linalg.norm(flow + warp(back, flow), axis=-1) + BEYOND * _outside(flow)
    brought = warp(other, flow)
    share = np.where(own > brought, RISE, FALL) * np.exp(-((gap / TOLERANCE) ** 2))
    return (own + share * (brought - own)).astype(np.float32)


def _outside(flow: np.ndarray) -> np.ndarray:
    """[h, w] bool: places that the flow leads out of the picture."""
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32).reshape(-1, 1)
    return (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)


def _logits(scores: np.ndarray) -> np.ndarray:
    kept = np.clip(scores, SURE, 1 - SURE)
    return np.log(kept / (1 - kept)).astype(np.float32)
