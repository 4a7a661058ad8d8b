"""Pictures with what the system `mover` makes of their scores, for its refiner to learn from.

    python -m data_pipelines.refinement procedural-wild:clips=220,frames=8 --cache FOLDER --jobs 2

fills a folder with what training otherwise computes before its first step: every frame's picture,
the scores of motion, matched to the colours, and after the filter. It goes on where it was stopped.
In most videos the scores are spoilt first, since those of made-up videos are better than those of
real ones.
"""

import argparse
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from data_pipelines import kept_videos
from data_pipelines.kept_videos import Kept, kept, save
from data_pipelines.records import reading, replacing_corrupt
from data_pipelines.video_records import VideoRecord
from jaxvos.along_motion import Moment, carried
from jaxvos.colour_guided import SHORTER, Looked, coloured
from jaxvos.refiner import colours_of
from jaxvos.systems.mover import moments, of_the_library

SPOILT = 0.6
"""The share of videos whose scores are made worse."""
SEED = 77
FORM = 2
"""Which way of making scores this is, counted up when it changes: nothing older is read."""
AT_OUTLINES = 0.85
"""The share of samples around a place that is wrong or lies on an outline."""


class Pictures(NamedTuple):
    """A video's T frames, as the refiner is shown them.

    Attributes:
        pictures: [T, h, w, 3] uint8 RGB.
        scores: [T, h, w, 3] uint8 in 0..255: motion's, matched, and after the filter.
        masks: [T, h, w] uint8 in 0..255: how much of a pixel is foreground.
    """

    pictures: np.ndarray
    scores: np.ndarray
    masks: np.ndarray


def looked_at(video: VideoRecord, number: int) -> Pictures:
    """What Mover makes of a video, spoilt or not; `number` decides how."""
    frames, small = [np.asarray(frame) for frame in video.frames], deque()
    found = moments(*of_the_library(), frames, small)
    rng = np.random.default_rng((SEED, number))
    if rng.random() < SPOILT:
        found = spoilt(found, rng)

    def both(looked: Looked) -> tuple[np.ndarray, np.ndarray]:
        scores = np.stack([looked.own, looked.matched, looked.settled], axis=-1)
        return looked.picture, _bytes(scores)

    kept = list(coloured(carried(found), small, both, along=carried))
    pictures, scores = (np.stack(each) for each in zip(*kept, strict=True))
    size = pictures.shape[2:0:-1]
    masks = [
        _bytes(cv2.resize(np.float32(np.asarray(mask) != 0), size, interpolation=cv2.INTER_AREA))
        for mask in video.masks
    ]
    return Pictures(pictures, scores, np.stack(masks))


def _bytes(scores: np.ndarray) -> np.ndarray:
    return np.rint(255 * scores.clip(0, 1)).astype(np.uint8)


def spoilt(moments: Iterable[Moment], rng: np.random.Generator) -> Iterator[Moment]:
    """Moments whose scores are displaced, blurred and surer or less sure from place to place.

    The most of it stays the same through a video, as real errors do.
    """
    moments = iter(moments)
    first = next(moments)
    height, width = first.scores.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)

    def smooth(spread: float) -> np.ndarray:
        coarse = rng.normal(0, spread, (4, 8)).astype(np.float32)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)

    shift = rng.uniform(0, 4)  # pixels
    down, right, surer = smooth(shift), smooth(shift), smooth(rng.uniform(0, 1.5))
    blur = rng.uniform(0, 3)  # pixels
    for moment in (first, *moments):
        x = columns + right + smooth(shift / 2)
        y = rows + down + smooth(shift / 2)
        border = cv2.BORDER_REPLICATE
        scores = cv2.remap(np.float32(moment.scores), x, y, cv2.INTER_LINEAR, borderMode=border)
        if blur > 0.5:
            scores = cv2.GaussianBlur(scores, (0, 0), blur)
        scores = scores.clip(0.003, 0.997)
        logits = np.log(scores / (1 - scores))
        logits += np.minimum(surer + smooth(0.5), 0.5) * (np.abs(logits) < 4)
        yield moment._replace(scores=(1 / (1 + np.exp(-logits))).astype(np.float32))


@dataclass(frozen=True)
class RefinementSamples:
    """(number of a frame among all, rng) -> a part of its picture, enlarged or reduced, mirrored.

        colours  [H, W, 3] float16: RGB in 0..1 less the picture's mean, varied
        scores   [H, W, 3] float16 in 0..1: motion's, matched, and after the filter
        masks    [H, W, 1] float16 in 0..1

    Most are around a place where the scores are wrong, or an outline is.
    """

    ends: np.ndarray  # [V] number of the frame after each video's last
    size: tuple[int, int]
    kept: Kept

    def __call__(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        return replacing_corrupt(self._part, number, int(self.ends[-1]), rng)

    def _part(self, number: int, rng: np.random.Generator) -> dict[str, Any]:
        which = int(np.searchsorted(self.ends, number, side="right"))
        t = number - (int(self.ends[which - 1]) if which else 0)
        with reading(f"video {which}"):
            video = read(self.kept.path(which))
        picture, scores, mask = video.pictures[t], video.scores[t], video.masks[t]
        scale = rng.uniform(0.7, 1.4)
        side = [min(round(n / scale), m) for n, m in zip(self.size, mask.shape, strict=True)]
        corner = _corner(_centre(scores[..., 2], mask, rng), side, mask.shape, rng)
        part = tuple(slice(at, at + n) for at, n in zip(corner, side, strict=True))
        smaller = cv2.INTER_AREA if side[0] > self.size[0] else cv2.INTER_LINEAR
        sized = lambda x: cv2.resize(x[part], self.size[::-1], interpolation=smaller)  # noqa: E731
        colours = varied(sized(colours_of(picture)), rng)
        scores, mask = sized(scores), sized(mask)[..., None]
        if rng.random() < 0.5:
            colours, scores, mask = (x[:, ::-1] for x in (colours, scores, mask))
        return {
            "colours": np.ascontiguousarray(colours, np.float16),
            "scores": np.ascontiguousarray(scores, np.float16) / np.float16(255),
            "masks": np.ascontiguousarray(mask, np.float16) / np.float16(255),
            "names": f"video {which}/{t:05d}",
        }


def _centre(settled: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Sequence[int]:
    """A place (y, x) that is wrong or on an outline, or, now and then, any."""
    step = 4
    if rng.random() < AT_OUTLINES:
        found, true = (x[::step, ::step].astype(int) for x in (settled, mask))
        places = np.argwhere((np.abs(found - true) > 60) | (np.abs(true - 127) < 110))
        if len(places):
            return step * places[rng.integers(len(places))]
    return [int(rng.integers(n)) for n in mask.shape]


def _corner(
    centre: Sequence[int], side: Sequence[int], whole: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """Where a part of so many pixels begins that has `centre` in its inner half, or nearly so."""
    return [
        int(np.clip(at - rng.integers(n // 4, n - n // 4), 0, most - n))
        for at, n, most in zip(centre, side, whole, strict=True)
    ]


def varied(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours [H, W, 3] in another order or turned round, fainter or stronger, blurred, noisy."""
    if rng.random() < 0.5:
        colours = colours[..., rng.permutation(3)] * rng.choice([-1, 1])
    colours = colours * rng.uniform(0.6, 1.4) * rng.uniform(0.85, 1.15, 3) + rng.normal(0, 0.05, 3)
    colours = np.float32(colours)
    if rng.random() < 0.5:
        colours = cv2.GaussianBlur(colours, (0, 0), rng.uniform(0.3, 1.2))
    return colours + rng.normal(0, rng.uniform(0, 0.02), colours.shape)


def places_of(videos: str, cache: str | Path) -> Kept:
    """Where what was made of the videos that the text names is kept, below the folder `cache`."""
    return kept(Path(cache).expanduser() / f"refinement-{FORM}", videos, (SHORTER, SHORTER))


def read(path: Path) -> Pictures:
    """What `fill` has kept of a video."""
    with np.load(path) as arrays:
        return Pictures(**arrays)


def fill(videos: str, cache: str | Path, jobs: int = 0) -> Kept:
    """Computes what is not kept yet, in so many processes, or none; returns where all of it is."""
    places = places_of(videos, cache)
    kept_videos.fill(_make, videos, places, title="scores", jobs=jobs)
    return places


def _make(video: VideoRecord, number: int, path: Path) -> None:
    save(path, **looked_at(video, number)._asdict())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=fill.__doc__)
    parser.add_argument("videos", help="what data.videos of the recipe says")
    parser.add_argument("--cache", required=True, help="what data.cache of the recipe says")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the processes: an accelerator is no use to many
    fill(given.videos, given.cache, given.jobs)


if __name__ == "__main__":
    main()
