"""Benchmarks of what training reads: the pipeline, and made-up video."""

from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from data_pipelines import samples
from data_pipelines.procedural import clip
from jaxvos import recipe
from jaxvos.programs.bench.measure import Extent, Measurement, alone, seconds
from jaxvos.video import read_mask, write_mask

FULL = (480, 854)  # (H, W) of DAVIS at 480p
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]


def pipeline(extent: Extent) -> list[Measurement]:
    """Training pictures a second, with their masks: the pipeline of configs/cosnet.py, by workers.

    Both frames of a pair count; they are read, cropped, scaled, mirrored, stretched and squashed to
    473 x 473, in 2 threads a worker. "Plain" decodes the same 480p files and resizes them to the
    same size with OpenCV, in one thread, and does nothing else.
    """
    size = (96, 128) if extent.quick else FULL
    clips, frames, batches, repeats = (1, 4, 1, 2) if extent.quick else (4, 8, 4, 5)
    with TemporaryDirectory() as folder:
        write_clips(Path(folder), clips, frames, size)
        plain = alone(_plain, folder, repeats)
        measurements = [Measurement("plain decode and resize", "speed", "pictures/s", plain)]
        for workers in (0,) if extent.quick else (0, 2):
            speeds = alone(_pipeline, folder, workers, batches, repeats)
            case, share = f"pipeline, {workers} workers", np.median(speeds) / np.median(plain)
            measurements += [
                Measurement(case, "speed", "pictures/s", speeds),
                Measurement(case, "of plain", "times", [float(share)]),
            ]
    return measurements


def procedural(extent: Extent) -> list[Measurement]:
    """Frames a second of made-up video with masks and flow, on one thread.

    Each repeat is another clip.
    """
    frames, repeats = (2, 2) if extent.quick else (16, 8)
    return [Measurement("256 x 448", "speed", "frames/s", alone(_procedural, frames, repeats))]


def write_clips(root: Path, clips: int, frames: int, size: tuple[int, int]) -> None:
    """Writes made-up clips as DAVIS is laid out: JPEG frames and indexed PNG masks."""
    for index in range(clips):
        made = clip(index, frames=frames, size=size)
        pictures = root / "JPEGImages" / "480p" / f"clip-{index}"
        masks = root / "Annotations" / "480p" / f"clip-{index}"
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, (picture, labels) in enumerate(zip(made.frames, made.labels, strict=True)):
            path = pictures / f"{t:05d}.jpg"
            if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), JPEG):
                raise OSError(f"{path} could not be written.")
            write_mask(masks / f"{t:05d}.png", labels > 0)


def files_of(folder: str, kind: str) -> list[Path]:
    """The files of all clips that `write_clips` wrote, "JPEGImages" or "Annotations", in order."""
    return sorted(Path(folder, kind, "480p").glob("*/*"))


def _plain(folder: str, repeats: int) -> list[float]:
    """Pictures a second, of one thread."""
    cv2.setNumThreads(1)
    height, width = recipe.read_recipe("cosnet").data.size
    pairs = [*zip(files_of(folder, "JPEGImages"), files_of(folder, "Annotations"), strict=True)]

    def once() -> None:
        for picture, mask in pairs:
            cv2.resize(cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB), (width, height))
            cv2.resize(read_mask(mask), (width, height), interpolation=cv2.INTER_NEAREST)

    return [len(pairs) / value for value in seconds(once, repeats)]


def _pipeline(folder: str, workers: int, batches: int, repeats: int) -> list[float]:
    """Pictures a second of the training pipeline, over `batches` batches a repeat."""
    changes = (f"data.videos={folder}:split=all", "data.image_every=0", f"data.workers={workers}")
    config = recipe.read_recipe("cosnet", changes)
    stream = samples.training_batches(config.data, batch=config.batch, seed=0)

    def some() -> None:
        for _ in range(batches):
            next(stream)

    try:
        taken = seconds(some, repeats)  # the first call empties what was read ahead at the start
    finally:
        stream.close()
    return [2 * config.batch * batches / value for value in taken]


def _procedural(frames: int, repeats: int) -> list[float]:
    """Frames a second, of one clip after the other."""
    cv2.setNumThreads(1)
    supply = iter(range(repeats + 1))
    return [frames / s for s in seconds(lambda: clip(next(supply), frames=frames), repeats)]
