"""Scores whole sequences, and sums them up, the way a benchmark's protocol says.

The protocol of DAVIS-2016 is "davis16": every label but 0 is foreground; the first and the last
frame of a sequence are left out; statistics are per sequence, and averaged over the sequences.

Only numpy and Pillow are imported here: worker processes start quickly.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvos.davis_layout import SequenceFiles, read_labels, some
from jaxvos.metrics.davis import boundary_measure, region_similarity, statistics

PROTOCOLS = {
    "davis16": "Every label but 0 is foreground; the first and the last frame of each sequence are "
    "left out. Averaged over the frames of a sequence first, then over the sequences.",
}


class Scores(NamedTuple):
    """The scored frames of one sequence: their names, and J and F of each."""

    sequence: str
    frames: tuple[str, ...]
    J: tuple[float, ...]
    F: tuple[float, ...]


def scored_frames(files: SequenceFiles) -> range:
    """Numbers of the frames that davis16 scores, all of which have an annotation."""
    count = len(files.frames)
    if count < 3:
        raise ValueError(
            f"The sequence {files.name} has {count} frame{'s' * (count != 1)}. davis16 leaves out "
            f"the first and the last one, so a sequence needs 3 at least."
        )
    scored = range(1, count - 1)
    missing = [files.frames[t] for t in scored if files.masks[t] is None]
    if missing:
        raise FileNotFoundError(f"Frames without an annotation to score against: {some(missing)}.")
    return scored


def find_predictions(
    folder: Path, chosen: Sequence[SequenceFiles], *, others_allowed: bool = False
) -> dict[str, dict[str, Path]]:
    """For each sequence the masks FOLDER/SEQUENCE/*.png by their frames' names.

    Raises:
        ValueError: Masks of scored frames are missing, or there are some of unknown frames or, if
            not `others_allowed`, of sequences that are not scored; the message names the files.
    """
    if not folder.is_dir():
        raise ValueError(f"The predictions {folder} are not a folder of masks SEQUENCE/FRAME.png.")
    masks, missing, unknown = {}, [], []
    for files in chosen:
        found = {path.stem: path for path in sorted((folder / files.name).glob("[!.]*.png"))}
        stems = [frame.stem for frame in files.frames]
        wanted = [stems[t] for t in scored_frames(files)]
        missing += [folder / files.name / f"{stem}.png" for stem in wanted if stem not in found]
        unknown += [path for stem, path in found.items() if stem not in stems]
        masks[files.name] = found
    others = sorted({path.parent.name for path in folder.glob("*/[!.]*.png")} - masks.keys())
    if missing:
        raise ValueError(
            f"{len(missing)} of the masks to score are missing: {some(missing)}. Write a mask for "
            f"every frame, also where nothing is found, or choose the sequences to score by name."
        )
    if unknown:
        raise ValueError(
            f"Masks of frames that the data set does not have: {some(unknown)}. A mask is named "
            f"after its frame; remove pictures that are no masks."
        )
    if others and not others_allowed:
        raise ValueError(
            f"{folder} has masks of sequences that are not scored here: {some(others)}. Choose the "
            f"sequences to score by name, or remove those masks."
        )
    return masks


def score_files(files: SequenceFiles, masks: Mapping[str, Path]) -> Scores:
    """The scores of a sequence whose predicted masks are files, given by their frames' names."""
    measured = []
    for t in scored_frames(files):
        path = masks[files.frames[t].stem]
        measured.append(score_mask(read_labels(path), files.masks[t], str(path)))
    return as_scores(files, measured)


def score_mask(mask: np.ndarray, annotation: Path, source: str) -> tuple[float, float]:
    """J and F of a mask [H, W] against an annotation; `source` is what an error calls the mask."""
    truth = read_labels(annotation)
    if mask.shape != truth.shape:
        raise ValueError(
            f"{source} is {_pixels(mask)}, its annotation {annotation} is {_pixels(truth)}. Masks "
            f"are scored at the annotations' size: resize the scores first, then threshold them."
        )
    return region_similarity(mask, truth), boundary_measure(mask, truth)


def as_scores(files: SequenceFiles, measured: Iterable[tuple[float, float]]) -> Scores:
    """The scores of a sequence from (J, F) of each frame that is scored, in order."""
    j, f = zip(*measured, strict=True)
    return Scores(files.name, tuple(files.frames[t].stem for t in scored_frames(files)), j, f)


def summarise(scores: Sequence[Scores], protocol: str) -> dict[str, Any]:
    """The numbers of a data set: averages over sequences and over frames, and of each sequence."""
    per_sequence = {
        each.sequence: {
            "frames": len(each.frames),
            "J": statistics(each.J)._asdict(),
            "F": statistics(each.F)._asdict(),
        }
        for each in scores
    }
    averages = {
        measure: {
            number: float(np.mean([each[measure][number] for each in per_sequence.values()]))
            for number in ("mean", "recall", "decay")
        }
        for measure in ("J", "F")
    }
    return {
        "protocol": protocol,
        "averaging": PROTOCOLS[protocol],
        **averages,
        "frame_average": {
            "J": float(np.mean(np.concatenate([each.J for each in scores]))),
            "F": float(np.mean(np.concatenate([each.F for each in scores]))),
        },
        "frames": sum(len(each.frames) for each in scores),
        "sequences": len(scores),
        "per_sequence": per_sequence,
    }


def _pixels(mask: np.ndarray) -> str:
    return " x ".join(str(size) for size in mask.shape[::-1]) + " pixels"
