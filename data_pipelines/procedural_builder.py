"""Made-up video as a TFDS data set, for when rendering it again and again would cost too much.

Records are those of DAVIS, one a frame, and hold the flow to the next frame besides; the last frame
of a clip has none (empty bytes). Pictures are lossless.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.data_set import VIDEO, DataSet, Record
from data_pipelines.procedural import MOTION, SALIENT, SEEDS, World, clip

FLOW_STEP = 1 / 64
"""Pixels: flow is stored in whole multiples of this."""
_ZERO = 2**15


@dataclass
class ProceduralConfig(tfds.core.BuilderConfig):
    """What is rendered.

    Attributes:
        world: The kind of clips.
        train: How many clips of the train split.
        val: How many of the val split.
        frames: In each clip.
        size: (height, width).
    """

    world: World = MOTION
    train: int = 256
    val: int = 32
    frames: int = 8
    size: tuple[int, int] = (256, 448)


class Planned(NamedTuple):
    """A clip that is yet to be rendered: its name, the numbers of its frames, and where it is."""

    name: str
    frames: range
    seed: int
    index: int


class Procedural(DataSet, skip_registration=True):
    """Made-up video with numbered objects and exact flow, one record a frame."""

    FIELDS = (*VIDEO, ("mask", bytes), ("flow", bytes))  # PNG; of flow see encode_flow
    BUILDER_CONFIGS = (
        ProceduralConfig(name="motion", description="Objects that move.", world=MOTION),
        ProceduralConfig(name="salient", description="Objects that stand out.", world=SALIENT),
    )

    def _found(self, root: Path | None) -> dict[str, list[Planned]]:
        del root  # there is nothing to download
        config = self.builder_config
        counts = {"train": config.train, "val": config.val}
        return {
            split: [
                Planned(f"clip-{index:05d}", range(config.frames), SEEDS[split], index)
                for index in range(count)
            ]
            for split, count in counts.items()
        }

    def _about(self, found: Mapping[str, Sequence[Planned]]) -> dict[str, Any]:
        return super()._about(found) | {"flow_step": FLOW_STEP}

    def _records(self, found: Sequence[Planned]) -> Iterator[Record]:
        config = self.builder_config
        for name, frames, seed, index in found:
            video = clip(index, seed=seed, frames=len(frames), size=config.size, world=config.world)
            for t in frames:
                yield {
                    "video": name,
                    "frame": t,
                    "picture": _png(cv2.cvtColor(video.frames[t], cv2.COLOR_RGB2BGR)),
                    "mask": _png(video.labels[t]),
                    "flow": encode_flow(video.flow[t]) if t < frames[-1] else b"",
                }


def encode_flow(flow: np.ndarray) -> bytes:
    """A flow [H, W, 2] in pixels as a PNG of 16 bits: 32768 + 64 x and 32768 + 64 y, then nothing.

    Beyond 511 pixels it is clipped.
    """
    steps = np.clip(np.rint(flow / FLOW_STEP) + _ZERO, 0, 2**16 - 1).astype(np.uint16)
    # Named for how PNG stores them, (R, G, B) = (x, y, 0); OpenCV writes the last one first.
    return _png(np.dstack([np.zeros_like(steps[..., 0]), steps[..., 1], steps[..., 0]]))


def decode_flow(data: bytes) -> np.ndarray:
    """The flow [H, W, 2] float32 in pixels that `encode_flow` wrote."""
    steps = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if steps is None or steps.dtype != np.uint16 or steps.ndim != 3:
        raise ValueError(f"{len(data)} bytes that are no flow as a PNG of three channels, 16 bits.")
    return (steps[..., 2:0:-1].astype(np.float32) - _ZERO) * np.float32(FLOW_STEP)


def _png(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", picture)
    if not done:
        raise ValueError(f"OpenCV cannot write a picture {picture.shape} {picture.dtype} as PNG.")
    return data.tobytes()
