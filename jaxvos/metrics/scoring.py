"""Scores one sequence's predictions, frame by frame, in each of the ways that protocols have.

Only numpy and Pillow are imported here, scipy where objects are assigned: workers start quickly.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxvos.davis_layout import SequenceFiles, read_labels, some
from jaxvos.metrics.davis import boundary_measure, region_similarity
from jaxvos.metrics.reading import (
    Fixer,
    numbered,
    read_grey_truth,
    read_mask,
    read_soft,
    read_truth,
)

if TYPE_CHECKING:
    from jaxvos.metrics.saliency import MapScores


class Options(NamedTuple):
    """What can be chosen within a protocol; the summary says it.

    Attributes:
        stability: davis16: the temporal stability T too, which takes longest.
        normalize: vsod: each map is stretched to 0..1 first, as most papers' tools do.
        keep_empty: fbms, youtube-objects: score frames whose annotation is empty too.
        fix: Faults that are mended instead of refused: names of `reading.FIXES`.
    """

    stability: bool = False
    normalize: bool = True
    keep_empty: bool = False
    fix: tuple[str, ...] = ()


DEFAULTS = Options()


class Scores(NamedTuple):
    """The scored frames of one sequence.

    Attributes:
        sequence: Its name.
        frames: Names of the scored frames, T of them.
        values: Of each measure the values, [K, T], of K objects; one where all are merged.
        objects: The objects' labels, or () where they are merged.
        facts: What else is said of the sequence in the summary.
        maps: vsod: the measures of each frame, with their curves.
        fixed: How often each fault was mended.
    """

    sequence: str
    frames: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    objects: tuple[int, ...] = ()
    facts: Mapping[str, Any] = {}
    maps: tuple["MapScores", ...] = ()
    fixed: Mapping[str, int] = {}


def inner_frames(files: SequenceFiles) -> range:
    """All frames but the first and the last, each of which has an annotation."""
    count = len(files.frames)
    if count < 3:
        raise ValueError(
            f"The sequence {files.name} has {count} frame{'s' * (count != 1)}. The first and the "
            f"last one are left out, so a sequence needs 3 at least."
        )
    return _all_annotated(files, range(1, count - 1))


def all_frames(files: SequenceFiles) -> range:
    """All frames, each of which has an annotation."""
    return _all_annotated(files, range(len(files.frames)))


def annotated_frames(files: SequenceFiles) -> list[int]:
    """The frames that have an annotation."""
    found = [t for t, mask in enumerate(files.masks) if mask is not None]
    if not found:
        raise ValueError(f"No frame of {files.name} has an annotation.")
    return found


def _all_annotated(files: SequenceFiles, scored: range) -> range:
    missing = [files.frames[t] for t in scored if files.masks[t] is None]
    if missing:
        raise FileNotFoundError(f"Frames without an annotation to score against: {some(missing)}.")
    return scored


def _score_merged(
    files: SequenceFiles, masks: Mapping[str, Path], options: Options, scored: Sequence[int]
) -> Scores:
    """J and F of one foreground against the union of all objects."""
    fix, measured = Fixer(options.fix), []
    for t in scored:
        truth = read_truth(files.masks[t])
        mask = read_mask(masks.get(files.frames[t].stem), truth, fix, _of(files, t))
        measured.append((region_similarity(mask, truth), boundary_measure(mask, truth)))
    return Scores(
        files.name,
        tuple(files.frames[t].stem for t in scored),
        {name: np.array([pair[i] for pair in measured])[None] for i, name in enumerate("JF")},
        fixed=fix.counts,
    )


def score_davis16(files: SequenceFiles, masks: Mapping[str, Path], options: Options) -> Scores:
    scores = _score_merged(files, masks, options, inner_frames(files))
    if not options.stability:
        return scores
    from jaxvos.metrics.stability import temporal_instability

    shapes = (read_labels(masks[stem]) != 0 for stem in scores.frames if stem in masks)
    value = temporal_instability(shapes)[0]
    return scores._replace(facts={"T": None if np.isnan(value) else value})


def score_regions(files: SequenceFiles, masks: Mapping[str, Path], options: Options) -> Scores:
    """J of the annotated frames; those with an empty annotation are left out unless asked for."""
    scored, empty = [], []
    for t in annotated_frames(files):
        (scored if read_truth(files.masks[t]).any() else empty).append(t)
    if options.keep_empty:
        scored = sorted(scored + empty)
    if not scored:
        raise ValueError(
            f"Every annotation of {files.name} is empty, so it has no frame to score. Leave the "
            f"sequence out, or score empty annotations too (--keep-empty)."
        )
    scores = _score_merged(files, masks, options, scored)
    return scores._replace(
        values={"J": scores.values["J"]}, facts={"frames_without_object": len(empty)}
    )


def score_saliency(files: SequenceFiles, maps: Mapping[str, Path], options: Options) -> Scores:
    from jaxvos.metrics.saliency import score_map

    fix, scored, measured = Fixer(options.fix), annotated_frames(files), []
    for t in scored:
        truth = read_grey_truth(files.masks[t], fix)
        grey = read_soft(maps.get(files.frames[t].stem), truth, fix, _of(files, t))
        measured.append(score_map(grey, truth, normalize=options.normalize))
    values = {
        "MAE": [each.mae for each in measured],
        "S": [each.s for each in measured],
        "F_adaptive": [each.adaptive_f for each in measured],
        "E_adaptive": [each.adaptive_e for each in measured],
    }
    return Scores(
        files.name,
        tuple(files.frames[t].stem for t in scored),
        {name: np.array(column)[None] for name, column in values.items()},
        maps=tuple(measured),
        fixed=fix.counts,
    )


def score_semi(files: SequenceFiles, masks: Mapping[str, Path], options: Options) -> Scores:
    """J and F of each object; the void label of the annotations counts as background."""
    from jaxvos.metrics.davis17 import count_objects, measure_objects

    fix, scored = Fixer(options.fix), inner_frames(files)
    if files.masks[0] is None:
        raise FileNotFoundError(f"{files.frames[0]} has no annotation, which says the objects.")
    objects, measured = count_objects(read_labels(files.masks[0])), []
    for t in scored:
        truth = read_labels(files.masks[t])
        labels = _labels(files, masks, t, truth, objects, fix)
        measured.append(measure_objects(labels, truth, objects))
    return _of_objects(files, scored, measured, fix)


def score_unsup(files: SequenceFiles, masks: Mapping[str, Path], options: Options) -> Scores:
    """J and F of each object and the proposal that fits it best over the whole sequence."""
    from jaxvos.metrics.davis17 import PROPOSALS, assign, count_objects, measure_frame

    fix, scored = Fixer(options.fix), all_frames(files)
    objects = count_objects(read_labels(files.masks[0]))

    proposals, measured = 0, []
    for t in scored:
        truth = read_labels(files.masks[t])
        labels = _labels(files, masks, t, truth, PROPOSALS, fix)
        proposals = max(proposals, int(labels.max(initial=0)))
        measured.append(measure_frame(labels, truth, PROPOSALS, objects))
    # An empty proposal more could change the assignment: only those that there are take part.
    rows = max(proposals, objects)
    chosen = assign(*(np.stack(v)[:, :rows] for v in zip(*measured, strict=True)))
    best = chosen, np.arange(objects)
    scores = _of_objects(files, scored, [(j[best], f[best]) for j, f in measured], fix)
    return scores._replace(facts={"proposals": proposals, "assigned": [int(p) + 1 for p in chosen]})


def _labels(
    files: SequenceFiles,
    masks: Mapping[str, Path],
    t: int,
    truth: np.ndarray,
    most: int,
    fix: Fixer,
) -> np.ndarray:
    """The predicted labels of a frame, [H, W] uint8, none above `most`."""
    path = masks.get(files.frames[t].stem)
    return numbered(read_mask(path, truth, fix, _of(files, t)), most, str(path), fix)


def _of_objects(
    files: SequenceFiles,
    scored: Sequence[int],
    measured: Sequence[tuple[np.ndarray, np.ndarray]],
    fix: Fixer,
) -> Scores:
    """Scores from (J [K], F [K]) of every frame."""
    J, F = (np.stack(values, axis=1) for values in zip(*measured, strict=True))
    names = tuple(files.frames[t].stem for t in scored)
    return Scores(
        files.name, names, {"J": J, "F": F}, tuple(range(1, len(J) + 1)), fixed=fix.counts
    )


def _of(files: SequenceFiles, t: int) -> str:
    return f"of {files.name}, frame {files.frames[t].stem}"
