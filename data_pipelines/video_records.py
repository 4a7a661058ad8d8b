"""What sources give: videos with masks, flow or eye movements, and pictures with masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_pipelines.encoded import Lazy
from data_pipelines.specs import Options
from jaxvos.davis_layout import some


class VideoRecord(NamedTuple):
    """A video to train on.

    Attributes:
        name: What it is called.
        frames: T pictures [H, W, 3] uint8 RGB, decoded when indexed.
        masks: T masks [H, W] uint8 as they are stored: object numbers, or 0 and 255; None where
            there are fixations or flow alone.
        flow: T - 1 fields [H, W, 2] float32, where the source has them, exact or from files: where
            what is seen at t has moved at t + 1, (x, y) pixels.
        maps: T fixation maps [H, W] float32 in 0..1, where there are any.
        points: T pictures [H, W] bool of the fixated pixels, where there are any.
    """

    name: str
    frames: Sequence[np.ndarray]
    masks: Sequence[np.ndarray] | None
    flow: Sequence[np.ndarray] | None = None
    maps: Sequence[np.ndarray] | None = None
    points: Sequence[np.ndarray] | None = None


class ImageRecord(NamedTuple):
    """A picture [H, W, 3] uint8 RGB and its mask [H, W] uint8 as it is stored."""

    name: str
    picture: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Videos(Lazy[VideoRecord]):
    """Videos, opened when indexed.

    Attributes:
        lengths: Frames of each, known without opening any.
    """

    lengths: tuple[int, ...] = ()


def chosen(names: Sequence[str], options: Options, where: str) -> list[int]:
    """The positions of the videos that only= and without= leave.

    Args:
        names: All the videos' names.
        options: Of the source.
        where: What the source is called, for messages.
    """
    gone = _positions(names, options.all("without"), where)
    kept = [number for number in range(len(names)) if number not in gone]
    if not kept:
        raise ValueError(f"Nothing of {where} is left: all {len(names)} videos are left out.")
    if options.all("only"):
        wanted = _positions(names, options.all("only"), where)
        kept = [number for number in kept if number in wanted]
    return kept


def _positions(names: Sequence[str], wanted: Sequence[str], where: str) -> set[int]:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"{where} has no video called {some(unknown)}. It has: {some(names, 20)}.")
    return {number for number, name in enumerate(names) if name in wanted}
