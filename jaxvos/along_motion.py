"""Scores carried along a video's motion, both ways in time, so that each frame helps the others.

What moves by itself need not do so in every frame: a head that is held still for a moment is known
by what it did before and does next. And what seems to move in one frame alone is noise. Each score
is drawn towards that of the same thing a frame earlier, as the flow has it, and the same backwards.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxvos.flow.warp import warp

RISE, FALL = 0.8, 0.95
"""How much of a carried logit stays where the frame's own one is higher, and where it is lower:
motion that is seen says more than motion that is not."""
TOLERANCE = 2.0
"""Pixels by which the way there and back may miss until it counts 1 / e."""
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


def carried(moments: Iterable[Moment], *, block: int = 8, margin: int = 12) -> Iterator[Moment]:
    """The same moments; the scores of each frame have heard what those before and after it say.

    Args:
        moments: The frames in order.
        block: Frames that are answered together.
        margin: How many frames behind them are heard; block + margin + 1 are kept.
    """
    if block < 1 or margin < 0:
        raise ValueError(f"block={block}, margin={margin}: at least 1 and 0 frames.")
    kept: deque[_Frame] = deque()
    for moment in moments:
        own = logits(moment.scores)
        frame = _Frame(own, own, moment.back, moment.ahead)
        if kept:
            before = kept[-1]
            before.trust = _trust(before.ahead, moment.back)
            trust = _trust(moment.back, before.ahead)
            frame.carried = _drawn(own, before.carried, moment.back, trust)
        kept.append(frame)
        # The last one is not heard yet: its way back has to be there.
        if len(kept) > block + margin:
            yield from _answers(kept, block, block + margin)
    yield from _answers(kept, len(kept), len(kept))


@dataclass
class _Frame:
    """What is kept of a frame: logits, its own and carried from those before, and its flow."""

    own: np.ndarray
    carried: np.ndarray
    back: np.ndarray
    ahead: np.ndarray
    trust: np.ndarray | None = None  # in the way ahead; not known of the last frame


def _answers(kept: deque[_Frame], count: int, heard: int) -> Iterator[Moment]:
    """Takes the first `count` frames away and answers for them; the first `heard` are listened to.

    Logits go backwards from the last of those.
    """
    found: deque[Moment] = deque()
    later: np.ndarray | None = None
    for place in range(heard - 1, -1, -1):
        frame = kept[place]
        if later is None:
            later = frame.own
        else:
            later = _drawn(frame.own, later, frame.ahead, frame.trust)
        if place < count:
            scores = 1 / (1 + np.exp(-(frame.carried + later) / 2))
            found.appendleft(Moment(scores, frame.back, frame.ahead))
    for _ in range(count):
        kept.popleft()
    yield from found


def _drawn(own: np.ndarray, other: np.ndarray, flow: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """A frame's own logits drawn to those of its neighbour, as far as the flow is to be trusted."""
    brought = warp(other, flow)
    share = np.where(own > brought, np.float32(RISE), np.float32(FALL)) * trust
    return own + share * (brought - own)


def _trust(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """[h, w] float32 in 0..1: how nearly the way there and back ends where it began."""
    gap = ((flow + warp(back, flow)) ** 2).sum(axis=-1)
    trust = np.exp(-gap / np.float32(TOLERANCE**2))
    trust[_outside(flow)] = 0
    return trust


def _outside(flow: np.ndarray) -> np.ndarray:
    """[h, w] bool: places that the flow leads out of the picture."""
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32).reshape(-1, 1)
    return (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)


def logits(scores: np.ndarray) -> np.ndarray:
    """Of scores in 0..1, float32; kept finite (`SURE`)."""
    kept = np.clip(scores, SURE, 1 - SURE)
    return np.log(kept / (1 - kept)).astype(np.float32)
