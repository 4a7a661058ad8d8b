"""The records of clips that are made of saliency images anew each time: never the same one twice.

Like those of `clips`, they come of a callable (position, rng) -> record for Grain's `random_map`.
(`stills:...` among the sources makes one clip of each image, always the same.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipelines.augment import Augmentation, squash
from data_pipelines.records import read_image, replacing_corrupt
from data_pipelines.synthesis import moving_still
from data_pipelines.video_records import ImageRecord


@dataclass(frozen=True)
class StillClips:
    """(position in the stream, rng) -> the record of an image at random, as a clip that moves.

        frames  [T, H, W, 3] uint8 RGB
        masks   [T, H, W, 1] uint8 in {0, 1}
        flow    [T, H, W, 2] float32 pixels (x, y), exact; the last one's is that of the one before,
                which a clip of one frame has not: zero

    The image is augmented and squashed before it moves, so that the flow needs no resizing.
    """

    images: Sequence[ImageRecord]
    size: tuple[int, int]
    augment: Augmentation
    frames: int = 2

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, Any]:
        del position  # It has done its part: `rng` depends on it.
        total = len(self.images)
        return replacing_corrupt(self._clip, int(rng.integers(total)), total, rng)

    def _clip(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        name, picture, mask = read_image(self.images, number)
        picture, mask, _ = self.augment(picture, mask, rng)
        picture, mask = squash(picture, mask, self.size)
        clip = moving_still(picture, mask[..., 0], rng, frames=self.frames)
        last = clip.flow[-1:] if self.frames > 1 else np.zeros((1, *self.size, 2), np.float32)
        return {
            "frames": clip.frames,
            "masks": clip.masks[..., None],
            "flow": np.concatenate([clip.flow, last]),
            "names": name,
        }
