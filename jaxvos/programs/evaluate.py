"""Scores masks against a data set's annotations: `jaxvos evaluate`.

The masks are either read from a folder or made by a system first; `jaxvos.programs.score_files`
scores them.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxvos.davis_layout import SequenceFiles
from jaxvos.metrics.protocols import Protocol, find_predictions, get
from jaxvos.metrics.scoring import DEFAULTS, Options
from jaxvos.programs.score_files import (
    chosen_sequences,
    evaluate_predictions,
    frames_bar,
    place_of,
    prepare_results,
    reported,
    scored,
)

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
            prepare_results(Path(out) / f"crf-{crf}", overwrite)  # now, not after the first run
        loaded = load(system, weights)
        flow = needed_flow(loaded.system, flow, objects=objects)
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
    chosen = chosen_sequences(root, protocol, sequences, protocol_options)
    kinds = _kinds(crf, rules)
    outs = {kind: None if out is None else Path(out) / kind for kind in kinds}
    for folder in outs.values():
        prepare_results(folder, overwrite, masks_of=chosen)
    origin = {"data": place_of(root), "threshold": threshold, **(origin or {})}
    with tempfile.TemporaryDirectory() if out is None else nullcontext(out) as place:
        folders = {Path(place) / kind / "masks": refine for kind, refine in kinds.items()}
        with frames_bar(progress, sum(len(files.frames) for files in chosen)) as advance:
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
            scores = scored(chosen, masks, protocol, protocol_options, workers, False)
            about = origin | ({"crf": crf} if kind else {})
            summaries.append(
                reported(scores, protocol, protocol_options, about, outs[kind], progress)
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
