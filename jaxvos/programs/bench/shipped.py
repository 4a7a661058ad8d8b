"""Benchmarks of the weights that come with the library: seconds a frame, memory as videos grow."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from data_pipelines.procedural import WILD, clip
from jaxvos.programs.bench.data import FULL
from jaxvos.programs.bench.measure import (
    MB,
    Extent,
    Measurement,
    alone,
    peak_memory,
    seconds_in_turn,
)
from jaxvos.systems import load
from jaxvos.typing import Video

WAYS: Mapping[str, Mapping[str, Any]] = {
    "everything": {},
    "without the refiner": {"refiner": "none"},
    "--fast": {"fast": True},
    "motion alone": {"colours": False},
}
"""Name -> options of the segmenter."""


def shipped(extent: Extent) -> list[Measurement]:
    """Seconds a frame at 480p with the library's own weights, and memory as a video grows longer.

    A made-up clip of 24 frames in memory, in turn and once compiled; "peak" is the most that a
    process of its own takes for everything on 96 frames, when all is full that waits, and on 288.
    """
    size, count = ((64, 96), 3) if extent.quick else (FULL, 24)
    ways = ["--fast"] if extent.quick else list(WAYS)
    taken = alone(_seconds, ways, size, count, 1 if extent.quick else 5)
    measurements = [Measurement(name, "time", "s/frame", taken[name]) for name in ways]
    for times in (1, 2) if extent.quick else (4, 12):
        peak = alone(_peak, size, count, times)
        case = f"everything, {times * count} frames"
        measurements.append(Measurement(case, "peak", "MB", [peak / MB]))
    return measurements


def _again(size: tuple[int, int], count: int, times: int = 1) -> Video:
    """A clip shown forth and back so many times; only one of it is in memory."""
    frames = clip(0, seed=9, frames=count, size=tuple(size), world=WILD).frames
    order = np.concatenate([np.arange(count)[:: (-1) ** i] for i in range(times)])
    return Video(_Chosen(frames, order))


class _Chosen:
    """Frames in an order of their own, as a sequence."""

    def __init__(self, frames: np.ndarray, order: np.ndarray) -> None:
        self.frames, self.order = frames, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, t: int) -> np.ndarray:
        return self.frames[self.order[t]]


def _seconds(
    ways: list[str], size: tuple[int, int], count: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds a frame of each way."""
    loaded, video = load(), _again(size, count)
    calls: dict[str, Callable[[], int]] = {
        name: partial(_every_frame, loaded.segmenter(WAYS[name]), video) for name in ways
    }
    taken = seconds_in_turn(calls, repeats)
    return {name: [each / count for each in taken[name]] for name in ways}


def _peak(size: tuple[int, int], count: int, times: int) -> int:
    _every_frame(load().segmenter({}), _again(size, count, times))
    return peak_memory()


def _every_frame(segment: Callable[[Video], Any], video: Video) -> int:
    return sum(1 for _ in segment(video))
