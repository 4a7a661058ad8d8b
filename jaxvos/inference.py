"""What inference protocols share: padded batches that compile once, sizes, references."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import cv2
import jax
import numpy as np
from PIL import Image


def batched(function: Callable[..., Any], items: Iterable[Any], *, batch: int) -> Iterator[Any]:
    """Yields `function`'s result for each item, `batch` items a call; the last call is padded.

    An item is an array or a tuple of arrays, which are stacked and passed as the arguments. Since
    every call has the same shapes, a jitted function compiles once whatever the number of items.
    """
    items = iter(items)
    while some := [i if isinstance(i, tuple) else (i,) for i in islice(items, batch)]:
        full = some + [some[-1]] * (batch - len(some))
        results = function(*(_stack(column) for column in zip(*full, strict=True)))
        for i in range(len(some)):
            yield jax.tree.map(lambda leaf, i=i: leaf[i], results)


def _stack(arrays: tuple) -> Any:
    return (np if isinstance(arrays[0], np.ndarray) else jax.numpy).stack(arrays)


def fit(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] uint8 squashed to `size`, by Pillow's antialiased bilinear filter."""
    if frame.shape[:2] == tuple(size):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))


def to_size(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A score map [h, w] at the frame's size (H, W), bilinear between pixel centres, float32."""
    scores = np.asarray(scores, np.float32)
    if scores.shape == tuple(size):
        return scores
    return cv2.resize(scores, size[::-1], interpolation=cv2.INTER_LINEAR)


def draw_references(
    frames: int, references: int, pool: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which frames can be references, [P] in order, and which of them each frame gets, [T, N].

    A frame's references are distinct and may include itself, as in the released protocols.
    """
    if references < 1:
        raise ValueError(f"references={references}: a frame is compared with at least one.")
    if pool < references:
        raise ValueError(f"pool={pool} holds fewer frames than references={references} asks for.")
    rng = np.random.default_rng(seed)
    if frames <= pool:
        candidates = np.arange(frames)
    else:
        candidates = np.sort(rng.choice(frames, pool, replace=False))
    count = min(references, frames)
    chosen = [rng.choice(candidates, count, replace=False) for _ in range(frames)]
    return candidates, np.asarray(chosen).reshape(frames, count)
