"""Clips as the system `mover` sees them: every frame's motion against the scene, computed once.

    python -m data_pipelines.motion_clips procedural:clips=1500,frames=7 --cache FOLDER --jobs 2

fills a folder with what training otherwise computes when it comes to a video for the first time.
It goes on where it was stopped.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from data_pipelines import kept_videos
from data_pipelines.augment import squash
from data_pipelines.clips import consecutive
from data_pipelines.kept_videos import Kept, kept, save
from data_pipelines.records import reading, replacing_corrupt
from data_pipelines.video_records import VideoRecord
from jaxvos.flow.aligned import STEPS, Aligned, aligned, channels, neighbour

UNITS = 64
"""Motion is stored in this part of a pixel, as integers."""
QUALITY = 95  # of the JPEG pictures


class Moving(NamedTuple):
    """A video of T frames with the motion of each towards its neighbours.

    Attributes:
        pictures: T JPEG files, RGB, of the working size (H, W).
        masks: [T, H, W] uint8 in {0, 1}.
        residual: [T, 4, H/2, W/2, 2] int16, in 1/64 pixel; the neighbours are `aligned.STEPS`.
        homography: [T, 4, 3, 3] float64.
    """

    pictures: list[np.ndarray]
    masks: np.ndarray
    residual: np.ndarray
    homography: np.ndarray

    def motion(self, t: int, which: int) -> Aligned:
        """Of frame t towards its neighbour number `which`."""
        return Aligned(np.float32(self.residual[t, which]) / UNITS, self.homography[t, which])

    def picture(self, t: int) -> np.ndarray:
        """[H, W, 3] uint8 RGB."""
        return cv2.cvtColor(cv2.imdecode(self.pictures[t], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def moving(video: VideoRecord, size: tuple[int, int]) -> Moving:
    """All of a video's frames, squashed to the working `size`, with their motion."""
    pairs = [squash(p, m, size) for p, m in zip(video.frames, video.masks, strict=True)]
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture, _ in pairs]
    count, half = len(pairs), (size[0] // 2, size[1] // 2)
    residual = np.zeros((count, len(STEPS), *half, 2), np.int16)
    homography = np.tile(np.eye(3), (count, len(STEPS), 1, 1))
    for t in range(count):
        for i, step in enumerate(STEPS):
            other = neighbour(t, step, count)
            if other != t:
                found = aligned(greys[t], greys[other])
                residual[t, i] = np.rint(UNITS * found.residual.clip(-500, 500))
                homography[t, i] = found.homography
    quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    pictures = [cv2.imencode(".jpg", p[..., ::-1], quality)[1] for p, _ in pairs]
    return Moving(pictures, np.stack([m[..., 0] for _, m in pairs]), residual, homography)


def cached(videos: Sequence[VideoRecord], number: int, size: tuple[int, int], path: Path) -> Moving:
    """`moving` of a video, from the file at `path` if it is there; else it is written."""
    if not path.exists():
        _write(path, moving(videos[number], size))
    with np.load(path) as arrays:
        masks = np.unpackbits(arrays["masks"], axis=-1, count=arrays["residual"].shape[3] * 2)
        ends = np.cumsum(arrays["lengths"])[:-1]
        pictures = np.split(arrays["pictures"], ends)
        found = Moving(pictures, masks, arrays["residual"], arrays["homography"])
    if masks.shape[1:] != tuple(size):
        raise ValueError(f"{path} holds videos of {masks.shape[1:]}, not {tuple(size)}.")
    return found


def _write(path: Path, video: Moving) -> None:
    """Puts a video at `path`, whole or not at all."""
    save(
        path,
        pictures=np.concatenate(video.pictures),
        lengths=np.array([len(each) for each in video.pictures]),
        masks=np.packbits(video.masks, axis=-1),
        residual=video.residual,
        homography=video.homography,
    )


@dataclass(frozen=True)
class MotionClips:
    """(number of a frame among all, rng) -> the record of a clip with it.

        motion  [T, H/2, W/2, 20] float16: `aligned.channels` towards four neighbours
        masks   [T, H/2, W/2, 1] float16 in 0..1: how much of each 2 x 2 pixels is foreground

    Half of the clips are mirrored and half turned back in time; in a quarter one of the neighbours
    takes its counterpart's place, as at the ends of a video.
    """

    videos: Sequence[VideoRecord]
    ends: np.ndarray  # [V] number of the frame after each video's last
    size: tuple[int, int]
    frames: int
    gap: int
    kept: Kept

    def __call__(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        return replacing_corrupt(self._clip, number, int(self.ends[-1]), rng)

    def _clip(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        which = int(np.searchsorted(self.ends, number, side="right"))
        start = int(self.ends[which - 1]) if which else 0
        length = int(self.ends[which]) - start
        times = consecutive(self.frames, length, number - start, self.gap, rng)
        with reading(f"video {which}"):
            video = cached(self.videos, which, self.size, self.kept.path(which))
        order, back = [0, 1, 2, 3], rng.random() < 0.5
        if back:
            order, times = [1, 0, 3, 2], times[::-1]
        if rng.random() < 0.25:
            lost = int(rng.integers(4))
            order[lost] = order[lost ^ 1]
        motion = np.stack(
            [np.concatenate([channels(video.motion(t, i)) for i in order], -1) for t in times]
        )
        masks = np.stack([shares(video.masks[t]) for t in times])[..., None]
        if rng.random() < 0.5:
            motion, masks = mirrored(motion), masks[:, :, ::-1]
        names = f"video {which}/{'+'.join(f'{t:05d}' for t in times)}"
        return {
            "motion": np.ascontiguousarray(motion, np.float16),
            "masks": np.ascontiguousarray(masks, np.float16) / np.float16(255),
            "names": names,
        }


def mirrored(motion: np.ndarray) -> np.ndarray:
    """Motion channels [..., W, 20] as seen in a mirror: the places, and the signs of x."""
    signs = np.ones(motion.shape[-1], motion.dtype)
    signs[0::5] = signs[3::5] = -1
    return motion[..., ::-1, :] * signs


def shares(mask: np.ndarray) -> np.ndarray:
    """[H/2, W/2] uint8 in 0..255: how much of each 2 x 2 pixels of a mask in {0, 1} is set."""
    half = mask.shape[1] // 2, mask.shape[0] // 2
    return cv2.resize(255 * mask, half, interpolation=cv2.INTER_AREA)


def fill(videos: str, cache: str | Path, size: tuple[int, int], jobs: int) -> Kept:
    """Computes every video that the cache does not hold yet; returns where all of them are."""
    places = kept(cache, videos, size)
    kept_videos.fill(partial(_make, tuple(size)), videos, places, title="motion", jobs=jobs)
    return places


def _make(size: tuple[int, int], video: VideoRecord, number: int, path: Path) -> None:
    del number
    cv2.setNumThreads(1)
    _write(path, moving(video, size))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=fill.__doc__)
    parser.add_argument("videos", help="what data.videos of the recipe says")
    parser.add_argument("--cache", required=True, help="what data.cache of the recipe says")
    parser.add_argument("--height", type=int, default=320)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    fill(given.videos, given.cache, (given.height, given.width), given.jobs)


if __name__ == "__main__":
    main()
