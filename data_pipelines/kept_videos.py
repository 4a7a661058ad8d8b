"""What is computed of videos once and kept: a folder for each source, a file for each video."""

import hashlib
import multiprocessing
import re
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from data_pipelines import sources
from data_pipelines.specs import parts_of
from data_pipelines.video_records import VideoRecord
from jaxvos.whole_file import whole_file


class Kept(NamedTuple):
    """Where something of videos is kept: a folder for each source, however they are joined.

    Attributes:
        folders: Of each source.
        ends: The number, among all videos, of the one after each source's last.
    """

    folders: tuple[Path, ...]
    ends: tuple[int, ...]

    def path(self, number: int) -> Path:
        """The file of a video."""
        part = bisect(self.ends, number)
        return self.folders[part] / f"{number - (0, *self.ends)[part]:06d}.npz"


def kept(cache: str | Path, videos: str, size: tuple[int, int]) -> Kept:
    """Where what there is of the videos that the text names is kept, below the folder `cache`."""
    parts = parts_of(videos)
    lengths = [len(sources.videos(part)) for part in parts]
    return Kept(tuple(folder_of(cache, part, size) for part in parts), tuple(accumulate(lengths)))


def folder_of(cache: str | Path, videos: str, size: tuple[int, int]) -> Path:
    """Where videos of a source and a working size are kept, by the source's text; made if need be.

    How many made-up clips there are does not count: each is the same in a larger number.
    """
    text = f"{re.sub(r'clips=[0-9]+,?', '', videos)} {size[0]} {size[1]}"
    folder = Path(cache).expanduser() / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save(path: Path, **arrays: np.ndarray) -> None:
    """Puts a video's arrays at `path`, whole or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def fill(
    make: Callable[[VideoRecord, int, Path], Any],
    videos: str,
    places: Kept,
    *,
    title: str,
    jobs: int = 0,
) -> None:
    """Makes the file of every video that has none yet, with a progress bar.

    Args:
        make: Called with a video, its number within its source, and the file to write.
        videos: The text that names the videos.
        places: `kept` of it.
        title: What the bar is called.
        jobs: Processes that share the work; 0 does it in this one.
    """
    spans = zip(parts_of(videos), (0, *places.ends), places.ends, strict=False)
    work = [
        (make, part, number - start, places.path(number))
        for part, start, end in spans
        for number in range(start, end)
        if not places.path(number).exists()
    ]
    for _ in track(_done(_make_one, work, jobs), title, total=len(work), disable=not work):
        pass


def _make_one(make: Callable[..., Any], part: str, number: int, path: Path) -> None:
    make(sources.videos(part)[number], number, path)


def _done(function: Callable[..., None], work: Sequence[tuple], jobs: int) -> Iterator[None]:
    """Yields as each piece of work is done."""
    if not jobs:
        yield from (function(*piece) for piece in work)
        return
    # Not forked: OpenCV's threads, and JAX's, do not live on in a copy, which then waits for them.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(function, *piece) for piece in work]):
            yield done.result()
