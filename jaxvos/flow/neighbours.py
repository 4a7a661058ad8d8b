"""The motion of each frame of a video towards its neighbours, one frame after the other.

Every picture is reduced to a working size of about `AREA` pixels, whatever the video's own.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from jaxvos.flow.aligned import (
    CHANNELS,
    STEPS,
    Aligned,
    Search,
    aligned,
    channels,
    neighbour,
    whole,
)

AREA = 320 * 576
"""Pixels that motion is sought at; sides are multiples of 64."""
SLOW, QUICK = 5.0, 9.0
"""Pixels of the working size a frame: what is slower shows best towards farther neighbours, what is
quicker towards the nearer ones alone."""
FAR = 2
"""Which of a neighbour's channels has the length of the motion: log 2 at `LEAST_MOTION`."""


def working_size(frame: tuple[int, int]) -> tuple[int, int]:
    """(H, W), multiples of 64, nearest to the frame's (H, W) in aspect, of about `AREA` pixels."""
    height = np.sqrt(AREA * frame[0] / frame[1])
    sides = (64 * max(round(side / 64), 1) for side in (height, AREA / height))
    return next(sides), next(sides)


class Seen(NamedTuple):
    """The motion of a frame.

    Attributes:
        channels: [H/2, W/2, 20] float32, what the network is shown.
        back: [H/2, W/2, 2] float32: the whole flow to the neighbour before, in pixels of half the
            working size.
        ahead: The same to the neighbour after.
        length: [H/2, W/2] float32: of the motion against the scene towards these two, the mean of
            both, in pixels of the working size.
    """

    channels: np.ndarray
    back: np.ndarray
    ahead: np.ndarray
    length: np.ndarray


def motion_of(
    pictures: Sequence[np.ndarray],
    t: int,
    first: int,
    length: int,
    *,
    fast: bool = False,
    search: Search | None = None,
) -> Seen:
    """The motion of frame t of a video of `length`, from pictures of the frames `first`, ... .

    Args:
        pictures: As `aligned` takes them: grey [H, W], or [H, W, 3] RGB for a search.
        t: Which frame.
        first: Which frame the first picture is of.
        length: Of the video, in frames.
        fast: The neighbours next to it stand in for those beyond, and DIS refines flow less.
        search: As in `aligned`.
    """
    frame = pictures[t - first]
    others = [neighbour(t, int(np.sign(step)) if fast else step, length) for step in STEPS]

    def towards(other: int) -> Aligned:
        if other == t:
            still = np.zeros((*(n // 2 for n in frame.shape[:2]), 2), np.float32)
            return Aligned(still, np.eye(3))
        return aligned(frame, pictures[other - first], fast=fast, search=search)

    def shown(other: int) -> tuple[Aligned, np.ndarray]:
        motion = towards(other)
        return motion, channels(motion)

    distinct = sorted(set(others))
    # OpenCV lets go of the interpreter's lock; other searches keep all cores busy by themselves.
    with ThreadPoolExecutor(1 if search else len(distinct)) as pool:
        found = dict(zip(distinct, pool.map(shown, distinct), strict=True))
    seen = [found[other][1] for other in others]
    back, ahead = (found[others[STEPS.index(step)]][0] for step in (-1, 1))
    own = sum(np.linalg.norm(each.residual, axis=-1) for each in (back, ahead)) / 2
    return Seen(np.concatenate(seen, axis=-1), whole(back) / 2, whole(ahead) / 2, own)


def moves(motion: np.ndarray) -> bool:
    """Whether anything in a frame with channels [h, w, 20] goes beyond what noise would."""
    return bool(motion[..., FAR::CHANNELS].max() >= np.log(2))


def suited(motion: np.ndarray, speed: float) -> np.ndarray:
    """Channels [..., 20] as they show best what moves by `speed` pixels a frame.

    What hardly moves shows towards the farther two neighbours, which come first then; what moves
    fast is lost towards them, and the nearer ones stand in for them.
    """
    near, far = np.split(motion, 2, axis=-1)
    if speed < SLOW:
        return np.concatenate([far, near], axis=-1)
    return np.concatenate([near, near], axis=-1) if speed > QUICK else motion


def motions(
    frames: Sequence[np.ndarray],
    *,
    fast: bool = False,
    read: Callable[[np.ndarray], object] | None = None,
    search: Search | None = None,
) -> Iterator[Seen]:
    """The motion of each frame; only small pictures of those around it are kept.

    Args:
        frames: Of a video, [H, W, 3] uint8 RGB each.
        fast: As in `motion_of`.
        read: Called with each frame, once and in order, some frames before its motion comes.
        search: As in `aligned`.
    """
    length, reach = len(frames), max(STEPS)
    size = working_size(frames[0].shape[:2])
    pictures: list[np.ndarray] = []
    done = 0
    for t in range(length):
        while done < min(t + reach + 1, length):
            frame = frames[done]
            pictures.append(grey(frame, size) if search is None else reduced(frame, size))
            if read:
                read(frame)
            done += 1
        del pictures[: max(len(pictures) - (done - max(t - reach, 0)), 0)]
        yield motion_of(pictures, t, done - len(pictures), length, fast=fast, search=search)


def reduced(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] uint8 as a picture of `size`."""
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


def grey(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] uint8 RGB as a grey picture of `size`."""
    return cv2.cvtColor(reduced(frame, size), cv2.COLOR_RGB2GRAY)
