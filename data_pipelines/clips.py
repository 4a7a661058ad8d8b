"""The records of systems that see a clip at a time: T frames of a video, or a picture as a clip.

Like those of `records`, they are callables (number, rng) -> record for Grain's `random_map`.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from data_pipelines.augment import (
    Augmentation,
    moved_flow,
    moved_map,
    moved_points,
    squash,
    squashed_back,
    stretch,
)
from data_pipelines.records import Frames, read_image, reading, replacing_corrupt
from data_pipelines.video_records import ImageRecord, VideoRecord
from jaxvos.flow.dis import dis


def consecutive(
    frames: int, length: int, current: int, gap: int, rng: np.random.Generator
) -> list[int]:
    """`frames` frames in order, one step of 1 to `gap` apart, the first of them `current`.

    The step is drawn; one that leads out of the video is cut down to the longest that does not. A
    clip that still leads out begins earlier, and in a video that is too short the last frames turn
    back: 0, 1, 2, 1, 0.
    """
    longest = max((length - 1) // max(frames - 1, 1), 1)
    step = min(int(rng.integers(1, gap + 1)), longest)
    start = max(min(current, length - 1 - step * (frames - 1)), 0)
    return [_turned_back(start + step * i, length) for i in range(frames)]


def random(frames: int, length: int, current: int, gap: int, rng: np.random.Generator) -> list[int]:
    """`current` and distinct others in any order; in a video that is too short some come twice."""
    del gap
    others = rng.permutation([t for t in range(length) if t != current]).tolist()
    return [current, *([*others, current] * frames)[: frames - 1]]


def anchored(
    frames: int, length: int, current: int, gap: int, rng: np.random.Generator
) -> list[int]:
    """The video's first frame, one that is 1 to `gap` before the current one, the current one."""
    if frames != 3:
        raise ValueError(f"An anchored clip has 3 frames (first, previous, current), not {frames}.")
    del length
    return [0, max(current - int(rng.integers(1, gap + 1)), 0), current]


ORDERS: dict[str, Callable[[int, int, int, int, np.random.Generator], list[int]]] = {
    "consecutive": consecutive,
    "random": random,
    "anchored": anchored,
}
"""(frames, the video's length, a frame of it, gap, rng) -> the frames of a clip."""


@dataclass(frozen=True)
class VideoClips:
    """(number of a frame among all, rng) -> the record of a clip with it.

        frames  [T, H, W, 3] uint8 RGB
        masks   [T, H, W, 1] uint8 in {0, 1}
        flow    [T, H, W, 2] float32 pixels (x, y) from each frame to the next, if asked for: "dis",
                by DIS between the frames as they are handed out; or "video", the source's own,
                moved with the frames. The last one's is that of the one before, which a clip of
                one frame has not: zero
        fixation_map, fixations
                [T, H, W, 1] float32 in 0..1, and uint8 in {0, 1}, of videos that have them; masks
                are then there if the videos have any

    All frames of a clip are augmented by the same draws.
    """

    videos: Sequence[VideoRecord]
    ends: np.ndarray  # [V] number of the frame after each video's last
    size: tuple[int, int]
    augment: Augmentation
    stretch: bool
    frames: int
    order: str
    gap: int
    flow: str

    def __call__(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        return replacing_corrupt(self._clip, number, int(self.ends[-1]), rng)

    def _clip(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        at = Frames(self.videos, self.ends)
        video, current, length = at.find(number)
        times = ORDERS[self.order](self.frames, length, current, self.gap, rng)
        pairs = [at.read(video, time) for time in times]
        chance = copy.deepcopy(rng)
        made = [self._prepare(*pair, copy.deepcopy(chance)) for pair in pairs]
        frames, masks, backs = zip(*made, strict=True)
        record = {"frames": np.stack(frames)}
        if video.masks is not None:
            record["masks"] = np.stack(masks)
        if self.flow == "dis":
            record["flow"] = flow_of(frames)
        elif self.flow:
            record["flow"] = self._own_flow(video, times, backs)
        if getattr(video, "maps", None) is not None:
            record |= self._fixations(video, times, backs)
        return record | {"names": f"{video.name}/{'+'.join(f'{t:05d}' for t in times)}"}

    def _prepare(
        self, picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        picture, smaller, back = self.augment(picture, mask, rng)
        back = squashed_back(back, smaller.shape, self.size)
        return (*squash(stretch(picture) if self.stretch else picture, smaller, self.size), back)

    def _own_flow(
        self, video: VideoRecord, times: list[int], backs: Sequence[np.ndarray]
    ) -> np.ndarray:
        fields = []
        for t, back in zip(times[:-1], backs, strict=False):
            with reading(f"{video.name}/{t:05d}, flow"):
                fields.append(moved_flow(video.flow[t], back, self.size))
        return _lasting(fields, self.size)

    def _fixations(
        self, video: VideoRecord, times: list[int], backs: Sequence[np.ndarray]
    ) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {"fixation_map": [], "fixations": []}
        for t, back in zip(times, backs, strict=True):
            with reading(f"{video.name}/{t:05d}, fixations"):
                found["fixation_map"].append(moved_map(video.maps[t], back, self.size))
                if video.points is not None:
                    points = moved_points(video.points[t], back, self.size)
                    found["fixations"].append(points.astype(np.uint8))
        return {name: np.stack(maps)[..., None] for name, maps in found.items() if maps}


@dataclass(frozen=True)
class ImageClips:
    """(position in the stream, rng) -> the record of an image at random, as a clip of copies.

    frames  [copies, H, W, 3] uint8 RGB
    mask    [H, W, 1] uint8 in {0, 1}
    flow    [copies, H, W, 2] float32, if any is asked for: zero, since nothing moves
    """

    images: Sequence[ImageRecord]
    size: tuple[int, int]
    augment: Augmentation
    copies: int
    flow: str

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        del position  # It has done its part: `rng` depends on it.
        total = len(self.images)
        return replacing_corrupt(self._image, int(rng.integers(total)), total, rng)

    def _image(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        name, picture, mask = read_image(self.images, number)
        picture, mask, _ = self.augment(picture, mask, rng)
        picture, mask = squash(picture, mask, self.size)
        record = {"frames": np.stack([picture] * self.copies), "mask": mask, "names": name}
        if self.flow:
            record["flow"] = np.zeros((self.copies, *self.size, 2), np.float32)
        return record


def flow_of(frames: Sequence[np.ndarray]) -> np.ndarray:
    """[T, H, W, 2]: DIS from each frame [H, W, 3] to the next; the last one's is repeated."""
    return _lasting([dis(a, b) for a, b in pairwise(frames)], frames[0].shape[:2])


def _lasting(fields: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """[T, H, W, 2] of T - 1 fields: the last one is there twice; zero where there is none."""
    last = fields[-1] if fields else np.zeros((*size, 2), np.float32)
    return np.stack([*fields, last])


def _turned_back(t: int, length: int) -> int:
    """Position t of the walk 0, 1, ..., length - 1, length - 2, ..., 0, 1, ... ."""
    period = max(2 * length - 2, 1)
    return min(t % period, period - t % period) if length > 1 else 0
