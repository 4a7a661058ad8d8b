"""Benchmarks of what the network's user waits for: start-up, masks and films, scores."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from data_pipelines.procedural import clip
from jaxvos.crf import PRESETS, refine_many
from jaxvos.film_writer import write_video
from jaxvos.metrics.davis import boundary_measure, region_similarity
from jaxvos.metrics.saliency import score_map
from jaxvos.metrics.stability import instability_of_pair
from jaxvos.programs.bench.data import FULL, files_of, write_clips
from jaxvos.programs.bench.measure import (
    MB,
    Extent,
    Measurement,
    alone,
    environment,
    peak_memory,
    seconds,
)
from jaxvos.programs.bench.network import TINY, random_variables
from jaxvos.programs.segment import write_results
from jaxvos.systems import cosnet
from jaxvos.typing import Segmenter, Video
from jaxvos.video import open_video, read_mask


def start_up(extent: Extent) -> list[Measurement]:
    """Seconds that a fresh Python takes to import jaxvos, and the program to answer `--help`.

    "First use" also looks up `jaxvos.segment`, which imports JAX, Flax and all that it needs.
    """
    commands = {
        "python, importing nothing": ("-c", ""),
        "import jaxvos": ("-c", "import jaxvos"),
        "import jaxvos, first use": ("-c", "import jaxvos; jaxvos.segment"),
        "jaxvos --help": ("-m", "jaxvos.cli", "--help"),
    }
    repeats = 1 if extent.quick else 5
    return [
        Measurement(case, "time", "s", seconds(partial(_python, *arguments), repeats))
        for case, arguments in commands.items()
    ]


def evaluator(extent: Extent) -> list[Measurement]:
    """Scoring of masks at 480p: every measure on one thread, and whole runs of `jaxvos evaluate`.

    The masks are made up; a frame's prediction is the next frame's mask. Milliseconds are the
    average over a clip's frames (T: pairs of frames), each repeat another clip. A whole run, of J
    and F, reads the files and includes the program's start.
    """
    clips, frames, copies, repeats = (1, 4, 2, 1) if extent.quick else (4, 12, 21, 3)
    measurements = []
    with TemporaryDirectory() as folder:
        write_clips(Path(folder), clips, frames, FULL)
        for name, values in alone(_measures, folder).items():
            measurements.append(Measurement(f"{name}, one thread", "time", "ms/frame", values))
        _multiply(Path(folder), copies)
        masks = str(Path(folder, "predictions"))
        scored = clips * copies * (frames - 2)  # the protocol leaves out the first and the last
        for processes in ("--workers=1",), ():
            arguments = ("--data", folder, "--predictions", masks, "--quiet", *processes)
            run = partial(_python, "-m", "jaxvos.cli", "evaluate", *arguments)
            taken = seconds(run, repeats)
            case = f"{scored} frames, {'one process' if processes else 'all cores'}"
            measurements += [
                Measurement(case, "whole run", "s", taken),
                Measurement(case, "speed", "frames/s", [scored / value for value in taken]),
            ]
    return measurements


def dense_crf(extent: Extent) -> list[Measurement]:
    """The dense CRF on frames of 480p: lattices, normalisation and all iterations.

    On a CPU it has one core. Each repeat is another frame of a made-up clip; the lattice of the
    smoothness kernel is kept from frame to frame.
    """
    size, repeats, together = (FULL, 5, 8) if not extent.quick else ((48, 64), 1, 2)
    measurements = []
    for preset in ("pdb",) if extent.quick else ("pdb", "matnet", "cosnet-10-10"):
        for frames in (1, together) if extent.accelerator or extent.quick else (1,):
            taken = alone(_refining, preset, size, repeats, frames, not extent.accelerator)
            case = f"{preset}, {PRESETS[preset].iterations} iterations" + (
                f", {frames} frames at once" if frames > 1 else ""
            )
            measurements.append(
                Measurement(case, "time", "s/frame", [value / frames for value in taken])
            )
    return measurements


def segmenting(extent: Extent) -> list[Measurement]:
    """What `jaxvos segment` costs beside the network, and its memory on long videos.

    Speed is that of reading pictures, writing masks and encoding the film, with masks that are
    there already. Memory is the peak of a process that segments a film of 144 x 192 with a tiny
    COSNet (5 references of a pool of 128 frames, whose features it keeps); to keep frames and
    scores would take 7 bytes a pixel, 194 KB a frame.
    """
    frames, size, lengths = (4, (96, 128), (20, 60)) if extent.quick else (48, FULL, (200, 2000))
    with TemporaryDirectory() as folder:
        write_clips(Path(folder), 1, frames, size)
        speeds = alone(_writing, folder, 1 if extent.quick else 3)
        film, peaks = Path(folder) / "film.mp4", []
        for length in lengths:
            write_film(film, length)
            peaks.append(alone(_peak, str(film)))
    short, long = (f"film of {length} frames" for length in lengths)
    growth = (peaks[1] - peaks[0]) / (lengths[1] - lengths[0])
    return [
        Measurement(f"pictures of {size[0]} x {size[1]}", "speed", "frames/s", speeds),
        Measurement(short, "memory", "MB", [peaks[0] / MB]),
        Measurement(long, "memory", "MB", [peaks[1] / MB]),
        Measurement(long, "of the short film's", "times", [peaks[1] / peaks[0]]),
        Measurement(long, "growth", "KB/frame", [growth / 1e3]),
    ]


def _python(*arguments: str) -> None:
    """Runs Python to its end, its output put away."""
    done = subprocess.run(
        [sys.executable, *arguments], env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")


def _measures(folder: str) -> dict[str, list[float]]:
    """Milliseconds a frame of every measure, of every clip."""
    clips = sorted(Path(folder, "Annotations", "480p").iterdir())
    masks = [[read_mask(path) for path in sorted(each.iterdir())] for each in clips]
    measures = {
        "J": region_similarity,
        "F": boundary_measure,
        "T": instability_of_pair,
        "MAE, F, E and S": _saliency,
    }
    return {
        name: [1e3 * seconds(partial(_score, m, some), 1)[0] / (len(some) - 1) for some in masks]
        for name, m in measures.items()
    }


def _refining(
    preset: str, size: tuple[int, int], repeats: int, together: int, one_core: bool
) -> list[float]:
    """Seconds of each call of the CRF, of so many frames together, after one that compiles."""
    if one_core and hasattr(os, "sched_setaffinity"):  # before JAX counts the cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    made = clip(0, frames=(repeats + 1) * together, size=tuple(size))
    scores = [
        cv2.GaussianBlur((mask > 0).astype(np.float32), (0, 0), 5).clip(0, 1)
        for mask in made.labels
    ]
    taken = []
    for i in range(0, len(scores), together):
        part = slice(i, i + together)
        begin = time.perf_counter()
        refine_many(made.frames[part], scores[part], preset)
        taken.append(time.perf_counter() - begin)
    return taken[1:]


def _score(measure: Callable[..., Any], masks: Sequence[np.ndarray]) -> list[Any]:
    return [measure(after, mask) for mask, after in pairwise(masks)]


def _saliency(after: np.ndarray, mask: np.ndarray) -> None:
    score_map(np.where(after != 0, 200, 30).astype(np.uint8), mask != 0)


def _multiply(root: Path, copies: int) -> None:
    """Makes each clip `copies` clips, by links, and predictions of the next frames' masks."""
    for kind in ("JPEGImages", "Annotations"):
        for source in sorted((root / kind / "480p").iterdir()):
            files = sorted(source.iterdir())
            names = [source.name, *(f"{source.name}-{i}" for i in range(1, copies))]
            for name in names[1:]:
                _link(files, files, source.with_name(name))
            if kind == "Annotations":
                for name in names:
                    _link(files, [*files[1:], files[-1]], root / "predictions" / name)


def _link(names: Sequence[Path], files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, file in zip(names, files, strict=True):
        (folder / name.name).hardlink_to(file)


def _given(masks: Iterable[np.ndarray]) -> Segmenter:
    """A segmenter that hands out scores which are there already."""

    def segment(video: Video) -> Iterator[np.ndarray]:
        yield from islice(masks, len(video.frames))

    return segment


def _writing(folder: str, repeats: int) -> list[float]:
    """Frames a second of reading a clip's pictures and writing all results."""
    source = files_of(folder, "JPEGImages")[0].parent
    masks = [(read_mask(path) > 0).astype(np.float32) for path in files_of(folder, "Annotations")]

    def once() -> None:
        with TemporaryDirectory() as out:
            write_results(open_video(source), _given(masks), out, progress=False)

    return [len(masks) / value for value in seconds(once, repeats)]


def write_film(path: Path, frames: int) -> None:
    """Writes a film of a made-up clip, there and back again until it has `frames` frames."""
    some = clip(0, frames=8, size=(144, 192)).frames
    write_video(path, islice(cycle([*some, *some[::-1]]), frames), rate=25)


def _peak(film: str) -> int:
    """The most bytes that this process had, after segmenting a film with a tiny COSNet."""
    variables = random_variables(cosnet.SYSTEM, TINY)
    segmenter = cosnet.segmenter(TINY, variables, size=(65, 97))
    with TemporaryDirectory() as out:
        write_results(open_video(film), segmenter, out, progress=False)
    return peak_memory()
