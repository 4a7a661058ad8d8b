"""Scores masks against a data set's annotations: `jaxvos evaluate`.

The masks are either read from a folder or made by a system first. Results go to per_frame.csv,
per_sequence.csv and summary.json, and to a table on the screen.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxvos.davis_layout import SequenceFiles, some
from jaxvos.metrics.protocols import Protocol, find_predictions, get, summarise
from jaxvos.metrics.reading import FIXES
from jaxvos.metrics.scoring import DEFAULTS, Options, Scores
from jaxvos.programs.results import RESULTS, show, table, write_results

if TYPE_CHECKING:  # imports JAX, which scoring files does not need
    from jaxvos.typing import Segmenter

Refine = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(frame [H, W, 3], scores [H, W]) -> refined scores [H, W]."""


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
    smooth: bool = False,
    crf: str | None = None,
    objects: bool = False,
    proposals: str | Path | None = None,
    flow: str | Path | None = None,
    protocol_options: Options = DEFAULTS,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
    report: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of masks, read from files or made by a system, on an annotated data set.

    Args:
        root: The data set, laid out as its protocol says: `jaxvos.davis_layout` or
            `jaxvos.layouts`.
        protocol: What is scored and how it is averaged: see `jaxvos.metrics.protocols.PROTOCOLS`.
        predictions: Folder of masks SEQUENCE/FRAME.png (vsod: of soft maps), or None to run a
            system.
        system: Name of the system to run; None is the one that the weights are of.
        weights: Its weights; None for those that come with the library, of `mover`.
        out: Folder for the results, with a system also for the masks (masks/SEQUENCE/FRAME.png).
        workers: Processes that score predictions; None is one per core, 0 and 1 are this process.
        sequences: Those to score; None is the list ImageSets/YEAR/val.txt, or all without a list.
        threshold: Scores of a system above it are foreground.
        smooth: Whether a system's scores are smoothed in time first, along optical flow.
        crf: Name of a dense CRF's settings (`jaxvos.crf.PRESETS`): the refined masks are scored
            beside the others, into OUT/crf-NAME.
        objects: Whether the objects of a system's foreground are told apart (`jaxvos.objects`).
            Those of a CRF's foreground may be others, so the system then runs a second time.
        proposals: Folder with a folder for each sequence of what the objects of its frames are.
        flow: "dis", or a folder with a folder of flow files for each sequence: what a system that
            needs flow is given; "dis" by default.
        protocol_options: What can be chosen within a protocol.
        overwrite: Whether results that `out` already holds may be replaced.
        options: Options of the system's inference protocol that differ from the weights' own.
        report: Whether to write OUT/report.html too: see `jaxvos.programs.report`.
        progress: Whether to show a bar and print the table.
    """
    page = _report_page(out, overwrite) if report else None
    shared: dict[str, Any] = {
        "protocol": protocol,
        "out": out,
        "workers": workers,
        "sequences": sequences,
        "protocol_options": protocol_options,
        "overwrite": overwrite,
        "progress": progress,
    }
    if predictions is not None:
        if {system, weights, flow, proposals} != {None} or options is not None:
            raise ValueError("Give either predictions to score or a system to run, not both.")
        if crf is not None or smooth or objects:
            raise ValueError(
                "A CRF, smoothing and objects work on a system's scores while they are made: give "
                "--weights with --crf, --smooth or --objects."
            )
        summary = evaluate_predictions(root, predictions, **shared)
    else:
        if weights is None and system is None:
            raise ValueError(
                "Nothing to evaluate: give predictions, a folder of masks SEQUENCE/FRAME.png, the "
                "weights of a system, or --system mover, whose weights come with the library."
            )
        from jaxvos.programs.segment import finished, needed_flow
        from jaxvos.systems import load

        if objects and crf is not None and out is not None:
            _prepare(Path(out) / f"crf-{crf}", overwrite)  # now, not after the first run
        loaded = load(system, weights)
        flow = needed_flow(loaded.system, flow)
        segmenter, finish = loaded.segmenter(options), partial(finished, smooth=smooth, flow=flow)
        told = {"objects": objects, "proposals": proposals, "threshold": threshold}
        origin = {
            "system": loaded.name,
            "weights": loaded.origin,
            "options": dict(options or {}),
            "smooth": smooth,
            "objects": objects,
            "proposals": None if proposals is None else str(proposals),
            "flow": None if flow is None else str(flow),
        }
        score = partial(evaluate_segmenter, root, **shared, threshold=threshold, origin=origin)
        if not objects:
            summary = score(finish(segmenter, proposals=proposals), crf=crf)
        else:
            summary = score(finish(segmenter, **told))
            if crf is not None:
                of_refined = finish(segmenter, crf=crf, **told)
                place = None if out is None else Path(out) / f"crf-{crf}"
                about = origin | {"crf": crf}
                summary |= {"refined": score(of_refined, out=place, origin=about)}
    if page is not None:
        from jaxvos.programs.report import report as write_report

        runs = [page.parent, *([page.parent / f"crf-{crf}"] if crf else [])]
        write_report(runs, page, overwrite=overwrite)
    return summary


def evaluate_predictions(
    root: str | Path,
    predictions: str | Path,
    *,
    protocol: str = "davis16",
    out: str | Path | None = None,
    workers: int | None = None,
    sequences: Iterable[str] | None = None,
    protocol_options: Options = DEFAULTS,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of a folder of masks SEQUENCE/FRAME.png; see `evaluate`.

    Masks of the frames that the protocol leaves out need not be there.
    """
    chosen = _chosen(root, protocol, sequences, protocol_options)
    masks = find_predictions(
        Path(predictions),
        chosen,
        get(protocol).frames,
        others_allowed=sequences is not None,
        may_miss="missing" in protocol_options.fix,
    )
    _prepare(out, overwrite)
    scores = _scored(chosen, masks, protocol, protocol_options, workers, progress)
    origin = {"data": _place(root), "predictions": _place(predictions)}
    return _report(scores, protocol, protocol_options, origin, out, progress)


def evaluate_segmenter(
    root: str | Path,
    segmenter: "Segmenter",
    *,
    protocol: str = "davis16",
    out: str | Path | None = None,
    workers: int | None = 1,
    sequences: Iterable[str] | None = None,
    threshold: float = 0.5,
    crf: str | None = None,
    protocol_options: Options = DEFAULTS,
    overwrite: bool = False,
    progress: bool = True,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a segmenter's masks, which go to OUT/masks as they are made; see `evaluate`.

    `origin` is what else the summary shall say, such as which system it was. With a CRF the
    summary's "refined" is that of the refined masks.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"Scores are in [0, 1], so a threshold is in [0, 1), not {threshold}.")
    rules = get(protocol)
    chosen = _chosen(root, protocol, sequences, protocol_options)
    kinds = _kinds(crf, rules)
    outs = {kind: None if out is None else Path(out) / kind for kind in kinds}
    for folder in outs.values():
        _prepare(folder, overwrite, masks_of=chosen)
    origin = {"data": _place(root), "threshold": threshold, **(origin or {})}
    with tempfile.TemporaryDirectory() if out is None else nullcontext(out) as place:
        folders = {Path(place) / kind / "masks": refine for kind, refine in kinds.items()}
        with _bar(progress, sum(len(files.frames) for files in chosen)) as advance:
            for files in chosen:
                for t, frame, scores in _segmented(files, segmenter):
                    for folder, refine in folders.items():
                        path = folder / files.name / f"{files.frames[t].stem}.png"
                        _write(
                            path,
                            scores if refine is None else refine(frame, scores),
                            rules,
                            threshold,
                        )
                    advance(1, files.name)
        summaries = []
        for kind, folder in zip(kinds, folders, strict=True):
            masks = find_predictions(folder, chosen, rules.frames, others_allowed=True)
            scores = _scored(chosen, masks, protocol, protocol_options, workers, False)
            about = origin | ({"crf": crf} if kind else {})
            summaries.append(
                _report(scores, protocol, protocol_options, about, outs[kind], progress)
            )
    return summaries[0] | ({"refined": summaries[1]} if crf else {})


def _report_page(out: str | Path | None, overwrite: bool) -> Path:
    """Where the report goes, if it may."""
    if out is None:
        raise ValueError("A report is made of the results: say where they go, too (--out).")
    page = Path(out) / "report.html"
    if page.exists() and not overwrite:
        raise FileExistsError(f"There already is {page}. Choose another folder, or overwrite it.")
    return page


def _place(path: str | Path) -> str:
    """A path that means the same from everywhere, since the report looks there for pictures."""
    return str(Path(path).absolute())


def _kinds(crf: str | None, rules: Protocol) -> dict[str, Refine | None]:
    """The kinds of masks to make: folder below the results (none for the raw ones), refinement."""
    if crf is None:
        return {"": None}
    if rules.objects:
        raise ValueError(
            f"{crf} is for one foreground, and this protocol scores objects: tell those of the "
            "foreground apart (--objects)."
        )
    from jaxvos.crf import named, refine

    return {"": None, f"crf-{crf}": partial(refine, settings=named(crf))}


def _chosen(
    root: str | Path, protocol: str, sequences: Iterable[str] | None, options: Options
) -> list[SequenceFiles]:
    """The sequences to score, each of which can be scored."""
    unknown = [fix for fix in options.fix if fix not in FIXES]
    if unknown:
        raise ValueError(f"No fix is called {some(unknown)}. There are: {', '.join(FIXES)}.")
    rules = get(protocol)
    chosen = rules.find(Path(root), None if sequences is None else list(sequences))
    for files in chosen:
        rules.frames(files)
    return chosen


def _processes(workers: int | None, tasks: int) -> int:
    """How many processes to use for a number of tasks."""
    if workers is not None and workers < 0:
        raise ValueError(f"The number of workers is 0 or more, not {workers}.")
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)  # the cores we may use; not on macOS
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(workers, tasks)


def _scored(
    chosen: Sequence[SequenceFiles],
    masks: Mapping[str, Mapping[str, Path]],
    protocol: str,
    options: Options,
    workers: int | None,
    progress: bool,
) -> list[Scores]:
    """The scores of each sequence, in order."""
    frames, done = get(protocol).frames, {}
    with _bar(progress, sum(len(frames(files)) for files in chosen)) as advance:
        for each in _score_all(chosen, masks, protocol, options, _processes(workers, len(chosen))):
            done[each.sequence] = each
            advance(len(each.frames), each.sequence)
    return [done[files.name] for files in chosen]


def _score(
    files: SequenceFiles, masks: Mapping[str, Path], protocol: str, options: Options
) -> Scores:
    """One sequence's scores: what a worker is sent."""
    return get(protocol).score(files, masks, options)


def _score_all(
    chosen: Sequence[SequenceFiles],
    masks: Mapping[str, Mapping[str, Path]],
    protocol: str,
    options: Options,
    processes: int,
) -> Iterator[Scores]:
    """The scores of each sequence as they become ready; the longest ones are begun first."""
    if processes <= 1:
        yield from (_score(files, masks[files.name], protocol, options) for files in chosen)
        return
    longest_first = sorted(chosen, key=lambda files: -len(files.frames))
    # A fork of a process with JAX's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            tasks = [
                pool.submit(_score, files, masks[files.name], protocol, options)
                for files in longest_first
            ]
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
    files: SequenceFiles, segmenter: "Segmenter"
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(number, frame, scores) of every frame of a sequence."""
    from jaxvos.video import open_video

    made = 0
    video = open_video(files.frames)._replace(name=files.name)
    for scores in segmenter(video):
        scores = np.asarray(scores)
        if not np.isfinite(scores).all():
            raise ValueError(f"The scores of {files.name}, frame {made}, are not finite numbers.")
        made += 1
        if made <= len(files.frames):
            yield made - 1, video.frames[made - 1], scores
    if made != len(files.frames):
        raise ValueError(
            f"{files.name} has {len(files.frames)} frames, the system made {made} masks."
        )


def _write(path: Path, scores: np.ndarray, rules: Protocol, threshold: float) -> None:
    """Writes a frame's prediction: a soft map, labels of objects, or a mask of any of them."""
    from PIL import Image

    from jaxvos.programs.segment import labels_of
    from jaxvos.video import write_mask, write_png

    path.parent.mkdir(parents=True, exist_ok=True)
    if not rules.objects and scores.ndim == 3:
        scores = scores.max(axis=-1)
    if rules.soft:
        levels = np.rint(255 * scores.clip(0, 1)).astype(np.uint8)
        write_png(path, Image.fromarray(levels))
    else:
        write_mask(path, labels_of(scores, threshold))


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
    options: Options,
    origin: Mapping[str, Any],
    out: str | Path | None,
    progress: bool,
) -> dict[str, Any]:
    """The summary, after writing and showing the results."""
    summary = {**summarise(scores, protocol, options), **origin}
    if out is not None:
        write_results(Path(out), scores, summary)
    if progress:
        show(table(summary))
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
