"""Temporal smoothing: a frame's scores joined with its neighbours', moved along optical flow."""

from collections.abc import Iterator

import numpy as np

from jaxvos.flow.dis import dis
from jaxvos.flow.warp import consistent, warp
from jaxvos.typing import Segmenter, Video


def smoothed(segmenter: Segmenter, weight: float = 0.5) -> Segmenter:
    """A segmenter whose scores are weighted averages with those of the frames before and after.

    A neighbour's score counts `weight` times where the flow to it is consistent with the flow back,
    else not at all, so that nothing bleeds in from what was hidden. Flow is DIS. Two frames and
    three score maps are kept at a time.

    Args:
        segmenter: Gives [H, W] or [H, W, K] scores.
        weight: Of each neighbour; the frame's own is 1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"A neighbour weighs 0 to 1, not {weight}.")

    def segment(video: Video) -> Iterator[np.ndarray]:
        before = None  # what the previous frame adds: (weighted scores, weights)
        count = len(video.frames)
        scores = segmenter(video)
        current = next(scores)
        for t in range(count):
            following = next(scores, None)
            total, weights = current, np.ones((*current.shape[:2], *(1,) * (current.ndim - 2)))
            if before is not None:
                total, weights = total + before[0], weights + before[1]
            before = None
            if following is not None:
                here, there = video.frames[t], video.frames[t + 1]
                forth, back = dis(here, there), dis(there, here)
                added = _brought(following, forth, back, weight)
                before = _brought(current, back, forth, weight)
                total, weights = total + added[0], weights + added[1]
            yield (total / weights).astype(np.float32)
            current = following

    return segment


def _brought(
    scores: np.ndarray, flow: np.ndarray, back: np.ndarray, weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """(weighted scores, weights) that a neighbour adds to the frame that `flow` leads from."""
    trusted = weight * consistent(flow, back).astype(np.float32)
    trusted = trusted.reshape(trusted.shape + (1,) * (scores.ndim - 2))
    return trusted * warp(scores, flow), trusted
