"""The records of training: two frames of a video, or a saliency image; read, augmented, squashed.

A record that cannot be read is replaced by another one, and says so. Both kinds are callables
(number, rng) -> record for Grain's `random_map`, of plain data so that workers can be sent them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.augment import Augmentation, squash, stretch
from data_pipelines.video_records import ImageRecord, VideoRecord

ATTEMPTS = 10
"""Records in a row that may be corrupt before a worker gives up."""


class Unreadable(Exception):
    """A record that cannot be used: (its name, what went wrong)."""


class Frames(NamedTuple):
    """All frames of all videos, by one number.

    Attributes:
        videos: The videos.
        ends: [V] number of the frame after each video's last.
    """

    videos: Sequence[VideoRecord]
    ends: np.ndarray

    def find(self, number: int) -> tuple[VideoRecord, int, int]:
        """The video that frame `number` is of, which of its frames it is, and how many it has."""
        which = int(np.searchsorted(self.ends, number, side="right"))
        start, end = (int(self.ends[which - 1]) if which else 0), int(self.ends[which])
        with reading(f"video {which}"):
            return self.videos[which], number - start, end - start

    @staticmethod
    def read(video: VideoRecord, time: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame's picture and mask, an empty one where the video has none."""
        with reading(f"{video.name}/{time:05d}"):
            picture = video.frames[time]
            if video.masks is None:
                return _checked(picture, np.zeros(picture.shape[:2], np.uint8))
            return _checked(picture, video.masks[time])


def read_image(images: Sequence[ImageRecord], number: int) -> tuple[str, np.ndarray, np.ndarray]:
    """An image's name, picture and mask."""
    with reading(f"image {number:05d}"):
        image = images[number]
        return (image.name, *_checked(image.picture, image.mask))


@dataclass(frozen=True)
class VideoPairs:
    """(number of a frame among all, rng) -> the record of it and another one of its video."""

    videos: Sequence[VideoRecord]
    ends: np.ndarray  # [V] number of the frame after each video's last
    size: tuple[int, int]
    augment: Augmentation
    stretch: bool

    def __call__(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        return replacing_corrupt(self._pair, number, int(self.ends[-1]), rng)

    def _pair(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        at = Frames(self.videos, self.ends)
        video, target, length = at.find(number)
        reference = int(rng.integers(length))
        if reference == target:
            reference = int(rng.integers(length))
        # Both are read before chance goes on, then each is augmented by draws of its own.
        frames = [at.read(video, time) for time in (target, reference)]
        (target_picture, target_mask), (picture, mask) = (self._prepare(*f, rng) for f in frames)
        return {
            "target": target_picture,
            "reference": picture,
            "target_mask": target_mask,
            "reference_mask": mask,
            "names": f"{video.name}/{target:05d}+{reference:05d}",
        }

    def _prepare(
        self, picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        picture, mask, _ = self.augment(picture, mask, rng)
        return squash(stretch(picture) if self.stretch else picture, mask, self.size)


@dataclass(frozen=True)
class ImageSamples:
    """(position in the stream, rng) -> the record of an image at random."""

    images: Sequence[ImageRecord]
    size: tuple[int, int]

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        del position  # It has done its part: `rng` depends on it.
        total = len(self.images)
        return replacing_corrupt(self._image, int(rng.integers(total)), total, rng)

    def _image(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        name, picture, mask = read_image(self.images, number)
        picture, mask = squash(picture, mask, self.size)
        return {"target": picture, "mask": mask, "names": name}


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns whatever goes wrong within into `Unreadable`: a decoder may raise anything."""
    try:
        yield
    except Exception as error:
        raise Unreadable(name, f"{type(error).__name__}: {error}") from error


def _checked(picture: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both, if they fit: a picture [H, W, 3] uint8 and a mask [H, W]."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture is [H, W, 3] uint8; this is {picture.shape} {picture.dtype}")
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"a mask {mask.shape} does not fit a picture {picture.shape}")
    return picture, mask


def replacing_corrupt(
    read: Callable[[int, np.random.Generator], dict[str, Any]],
    number: int,
    total: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Record `number`, or the first readable one of those that `rng` draws in its place.

    Workers cannot count for the whole run; so what was skipped travels in the record, as JSON.
    """
    skipped = []
    for _ in range(ATTEMPTS):
        try:
            record = read(number, rng)
        except Unreadable as unreadable:
            skipped.append(unreadable.args)
            number = int(rng.integers(total))
        else:
            return record | {"skipped": json.dumps(skipped)}
    raise ValueError(f"{ATTEMPTS} records in a row cannot be read:\n{listed(dict(skipped))}")


def listed(skipped: Mapping[str, str]) -> str:
    """One line for each corrupt record."""
    return "\n".join(f"- {name}: {reason}" for name, reason in skipped.items())
