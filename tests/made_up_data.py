"""Made-up videos and images in the shape of `data_pipelines.sources`, and pipelines on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import ml_collections
import numpy as np

from data_pipelines.samples import Batches, training_batches

LENGTHS = (5, 3, 1, 7)


@dataclass
class Frames(Sequence):
    """Pictures or masks of a made-up video; red and green say which video and frame."""

    video: int
    length: int
    masks: bool = False
    corrupt: tuple[int, ...] = ()
    read: list[int] = field(default_factory=list)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(index)
        self.read.append(index)
        if index in self.corrupt:
            raise OSError(f"{index:05d}.jpg is truncated")
        rng = np.random.default_rng((self.video, index))
        if self.masks:
            return (rng.uniform(size=(12, 16)) > 0.5).astype(np.uint8) * 255
        picture = rng.integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
        picture[..., :2] = self.video, index % 256
        return picture


class Video(NamedTuple):
    name: str
    frames: Sequence
    masks: Sequence


class Image(NamedTuple):
    name: str
    picture: np.ndarray
    mask: np.ndarray


class Videos(list):
    @property
    def lengths(self):
        return [len(video.frames) for video in self]


def made_up_videos(lengths=LENGTHS, corrupt=(), corrupt_masks=()) -> Videos:
    """Videos v0, v1, ...; `corrupt` holds (video, frame) pairs that cannot be read."""
    return Videos(
        Video(
            f"v{v}",
            Frames(v, length, corrupt=tuple(t for w, t in corrupt if w == v)),
            Frames(v, length, masks=True, corrupt=tuple(t for w, t in corrupt_masks if w == v)),
        )
        for v, length in enumerate(lengths)
    )


def made_up_images(count=6) -> list[Image]:
    return [
        Image(f"image{i}", np.full((9, 11, 3), 10 * i, np.uint8), np.full((9, 11), i, np.uint8))
        for i in range(count)
    ]


def start(*, batch=4, seed=0, process=(0, 1), videos=None, images=None, **changes) -> Batches:
    """The pipeline on made-up data at 8 x 10 pixels; no images unless `image_every` says so."""
    data = {
        "videos": "made up",
        "images": "",
        "image_every": 0,
        "size": (8, 10),
        "augment": "none",
        "workers": 0,
        "threads": 1,
        "stretch": False,
    }
    return training_batches(
        ml_collections.ConfigDict(data | changes),
        batch=batch,
        seed=seed,
        process_index=process[0],
        process_count=process[1],
        videos=made_up_videos() if videos is None else videos,
        images=made_up_images() if images is None else images,
    )


def take(batches: Batches, steps: int) -> list[dict[str, np.ndarray]]:
    return [next(batches) for _ in range(steps)]


def first(steps: int, **options) -> list[dict[str, np.ndarray]]:
    batches = start(**options)
    try:
        return take(batches, steps)
    finally:
        batches.close()


def names(batches) -> list[str]:
    return [str(name) for batch in batches for name in batch["names"]]


def assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key, strict=key != "names")
