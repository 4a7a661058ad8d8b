"""Scores masks against a data set's annotations: `jaxvos evaluate`.

The masks are either read from a folder or made by a system while they are scored. Results go to
per_frame.csv, per_sequence.csv and summary.json, and to a table on the screen.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxvos.davis_layout import SequenceFiles, list_sequences, some
from jaxvos.metrics.protocols import (
    PROTOCOLS,
    Scores,
    as_scores,
    find_predictions,
    score_files,
    score_mask,
    scored_frames,
    summarise,
)
from jaxvos.programs.results import RESULTS, table, write_results

if TYPE_CHECKING:  # imports JAX, which scoring files does not need
    from jaxvos.typing import Segmenter


def evaluate(
    root: str | Path,
    *,
    protocol: str = "davis16",
    predictions: str | Path | None = None,
    system: str | None = None,
    weights: str | Path | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    sequences: Iterable[str] | None = None,
    threshold: float = 0.5,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of masks, read from files or made by a system, on a data set laid out like DAVIS.

    Args:
        root: The data set; see `jaxvos.davis_layout`.
        protocol: What is scored and how it is averaged: see `jaxvos.metrics.protocols.PROTOCOLS`.
        predictions: Folder of masks SEQUENCE/FRAME.png, or None to run a system.
        system: Name of the system to run; None is the one that the weights are of.
        weights: Its weights.
        out: Folder for the results, with a system also for the masks (masks/SEQUENCE/FRAME.png).
        workers: Processes that score predictions; None is one per core, 0 and 1 are this process.
        sequences: Those to score; None is the list ImageSets/2016/val.txt, or all without a list.
        threshold: Scores of a system above it are foreground.
        overwrite: Whether results that `out` already holds may be replaced.
        options: Options of the system's inference protocol that differ from the weights' own.
        progress: Whether to show a bar and print the table.
    """
    if predictions is not None:
        if (system, weights, options) != (None, None, None):
            raise ValueError("Give either predictions to score or a system to run, not both.")
        return evaluate_predictions(
            root,
            predictions,
            protocol=protocol,
            out=out,
            workers=workers,
            sequences=sequences,
            overwrite=overwrite,
            progress=progress,
        )
    if weights is None:
        raise ValueError(
            "Nothing to evaluate: give predictions, a folder of masks SEQUENCE/FRAME.png, or the "
            "weights of a system."
        )
    from jaxvos.systems import load

    loaded = load(system, weights)
    return evaluate_segmenter(
        root,
        loaded.segmenter(options),
        protocol=protocol,
        out=out,
        sequences=sequences,
        threshold=threshold,
        overwrite=overwrite,
        progress=progress,
        origin={"system": loaded.name, "weights": str(weights), "options": dict(options or {})},
    )


def evaluate_predictions(
    root: str | Path,
    predictions: str | Path,
    *,
    protocol: str = "davis16",
    out: str | Path | None = None,
    workers: int | None = None,
    sequences: Iterable[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of a folder of masks SEQUENCE/FRAME.png; see `evaluate`.

    Masks of the frames that the protocol leaves out need not be there.
    """
    chosen = _chosen(root, protocol, sequences)
    masks = find_predictions(Path(predictions), chosen, others_allowed=sequences is not None)
    _prepare(out, overwrite)
    scores: dict[str, Scores] = {}
    with _bar(progress, sum(len(scored_frames(files)) for files in chosen)) as advance:
        for done in _score_all(chosen, masks, _processes(workers, len(chosen))):
            scores[done.sequence] = done
            advance(len(done.frames), done.sequence)
    ordered = [scores[files.name] for files in chosen]
    origin = {"data": str(root), "predictions": str(predictions)}
    return _report(ordered, protocol, origin, out, progress)


def evaluate_segmenter(
    root: str | Path,
    segmenter: "Segmenter",
    *,
    protocol: str = "davis16",
    out: str | Path | None = None,
    sequences: Iterable[str] | None = None,
    threshold: float = 0.5,
    overwrite: bool = False,
    progress: bool = True,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a segmenter's masks, which go to OUT/masks as they are made; see `evaluate`.

    `origin` is what else the summary shall say, such as which system it was.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"Scores are in [0, 1], so a threshold is in [0, 1), not {threshold}.")
    chosen = _chosen(root, protocol, sequences)
    _prepare(out, overwrite, masks_of=chosen)
    scores = []
    with _bar(progress, sum(len(files.frames) for files in chosen)) as advance:
        for files in chosen:
            measured, scored = [], scored_frames(files)
            for t, mask in enumerate(_segmented(files, segmenter, threshold)):
                frame = files.frames[t]
                if out is not None:
                    _write_mask(Path(out) / "masks" / files.name / f"{frame.stem}.png", mask)
                if t in scored:
                    measured.append(score_mask(mask, files.masks[t], f"The mask made of {frame}"))
                advance(1, files.name)
            scores.append(as_scores(files, measured))
    origin = {"data": str(root), "threshold": threshold, **(origin or {})}
    return _report(scores, protocol, origin, out, progress)


def _chosen(
    root: str | Path, protocol: str, sequences: Iterable[str] | None
) -> list[SequenceFiles]:
    """The sequences to score, each of which can be scored."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"No protocol is called {protocol!r}. There are: {', '.join(PROTOCOLS)}.")
    chosen = list_sequences(root, names=sequences)
    for files in chosen:
        scored_frames(files)
    return chosen


def _processes(workers: int | None, tasks: int) -> int:
    """How many processes to use for a number of tasks."""
    if workers is not None and workers < 0:
        raise ValueError(f"The number of workers is 0 or more, not {workers}.")
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)  # the cores we may use; not on macOS
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(workers, tasks)


def _score_all(
    chosen: Sequence[SequenceFiles], masks: Mapping[str, Mapping[str, Path]], processes: int
) -> Iterator[Scores]:
    """The scores of each sequence as they become ready; the longest ones are begun first."""
    if processes <= 1:
        yield from (score_files(files, masks[files.name]) for files in chosen)
        return
    longest_first = sorted(chosen, key=lambda files: -len(files.frames))
    # A fork of a process with JAX's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            tasks = [pool.submit(score_files, files, masks[files.name]) for files in longest_first]
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A scoring process died. Either memory ran out, or this is a script that evaluates "
                'when it is imported: call under `if __name__ == "__main__":`, or with workers=1.'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _segmented(
    files: SequenceFiles, segmenter: "Segmenter", threshold: float
) -> Iterator[np.ndarray]:
    """A bool mask [H, W] for every frame; any of several objects' scores [H, W, K] counts."""
    from jaxvos.video import open_video

    made = 0
    video = open_video(files.frames)._replace(name=files.name)
    for scores in segmenter(video):
        if not np.isfinite(scores).all():
            raise ValueError(f"The scores of {files.name}, frame {made}, are not finite numbers.")
        made += 1
        if made <= len(files.frames):
            yield (scores if scores.ndim == 2 else scores.max(axis=-1)) > threshold
    if made != len(files.frames):
        raise ValueError(
            f"{files.name} has {len(files.frames)} frames, the system made {made} masks."
        )


def _write_mask(path: Path, mask: np.ndarray) -> None:
    from jaxvos.video import write_mask

    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, mask)


def _prepare(
    out: str | Path | None, overwrite: bool, masks_of: Sequence[SequenceFiles] = ()
) -> None:
    """Makes sure before any work that results can be written to the folder, and none is lost."""
    if out is None:
        return
    out = Path(out)
    results = [out / name for name in RESULTS if (out / name).exists()]
    masks = [
        path for files in masks_of for path in sorted((out / "masks" / files.name).glob("*.png"))
    ]
    if not overwrite and (results or masks):
        raise FileExistsError(
            f"There already is {some([*results, *masks])}. Choose another folder, or allow to "
            f"overwrite it."
        )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):  # says now whether files can be written
        pass
    if masks_of:  # masks that are older than the results, or newer, must not be taken for theirs
        for path in (*results, *masks):
            path.unlink()


def _report(
    scores: Sequence[Scores],
    protocol: str,
    origin: Mapping[str, Any],
    out: str | Path | None,
    progress: bool,
) -> dict[str, Any]:
    """The summary, after writing and showing the results."""
    summary = {**summarise(scores, protocol), **origin}
    if out is not None:
        write_results(Path(out), scores, summary)
    if progress:
        Console().print(table(summary))
    return summary


@contextmanager
def _bar(show: bool, frames: int) -> Iterator[Callable[[int, str], None]]:
    """Gives a function that is told how many frames of which sequence are done."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not show) as bar:
        task = bar.add_task("evaluating", total=frames)

        def advance(count: int, name: str) -> None:
            bar.update(task, advance=count, description=name)

        yield advance
