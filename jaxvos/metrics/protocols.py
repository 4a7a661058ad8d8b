"""The protocols of the benchmarks: what is scored, and how it is averaged.

Which frames count, what is compared and over what the values are averaged differs between
benchmarks, and scores of different protocols cannot be compared; `PROTOCOLS` says it for each.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxvos.davis_layout import SequenceFiles, list_sequences, some
from jaxvos.layouts import list_annotated
from jaxvos.metrics.reading import FIXES
from jaxvos.metrics.scoring import (
    Options,
    Scores,
    all_frames,
    annotated_frames,
    inner_frames,
    score_davis16,
    score_regions,
    score_saliency,
    score_semi,
    score_unsup,
)
from jaxvos.metrics.sums import by_category, by_object, by_saliency, by_sequence


class Protocol(NamedTuple):
    """One benchmark's way to score.

    Attributes:
        about: What is scored and how it is averaged, in a sentence or two.
        unit: What the headline is averaged over.
        find: (root, names of sequences or None) -> the sequences.
        frames: (sequence) -> numbers of the frames that are scored.
        score: (sequence, predictions by frame name, options) -> its scores.
        summarise: (scores of all sequences) -> the protocol's part of the summary.
        soft: Whether predictions are soft maps, not masks.
        objects: Whether objects are told apart.
    """

    about: str
    unit: str
    find: Callable[[Path, Collection[str] | None], list[SequenceFiles]]
    frames: Callable[[SequenceFiles], Sequence[int]]
    score: Callable[[SequenceFiles, Mapping[str, Path], Options], Scores]
    summarise: Callable[[Sequence[Scores]], dict[str, Any]]
    soft: bool = False
    objects: bool = False


def get(name: str) -> Protocol:
    """The protocol of a name."""
    if name not in PROTOCOLS:
        raise ValueError(f"No protocol is called {name!r}. There are: {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def find_predictions(
    folder: Path,
    chosen: Sequence[SequenceFiles],
    frames: Callable[[SequenceFiles], Sequence[int]],
    *,
    others_allowed: bool = False,
    may_miss: bool = False,
) -> dict[str, dict[str, Path]]:
    """For each sequence the masks FOLDER/SEQUENCE/*.png by their frames' names.

    Args:
        folder: The predictions.
        chosen: The sequences that are scored.
        frames: The protocol's frames.
        others_allowed: Whether masks of further sequences are no error.
        may_miss: Whether masks of scored frames may be missing.

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
        wanted = [stems[t] for t in frames(files)]
        missing += [folder / files.name / f"{stem}.png" for stem in wanted if stem not in found]
        unknown += [path for stem, path in found.items() if stem not in stems]
        masks[files.name] = found
    known = {folder / name for name in masks}
    others = sorted({path.parent for path in folder.rglob("[!.]*.png")} - known)
    if missing and not may_miss:
        raise ValueError(
            f"{len(missing)} of the masks to score are missing: {some(missing)}. Write a mask for "
            f"every frame, also where nothing is found, or choose the sequences to score by name. "
            f"(--fix missing: {FIXES['missing']}.)"
        )
    if missing and not any(masks.values()):
        raise ValueError(f"{folder} has no mask of any sequence that is scored: a wrong folder?")
    if unknown:
        raise ValueError(
            f"Masks of frames that the data set does not have: {some(unknown)}. A mask is named "
            f"after its frame; remove pictures that are no masks."
        )
    if others and not others_allowed:
        raise ValueError(
            f"{folder} has masks of sequences that are not scored here: "
            f"{some([str(path.relative_to(folder)) for path in others])}. Choose the sequences to "
            f"score by name, or remove those masks."
        )
    return masks


def _davis16(root: Path, names: Collection[str] | None) -> list[SequenceFiles]:
    return list_sequences(root, names=names)


def _davis17(root: Path, names: Collection[str] | None) -> list[SequenceFiles]:
    return list_sequences(root, names=names, year="2017")


def _davis17_unsup(root: Path, names: Collection[str] | None) -> list[SequenceFiles]:
    there = (root / "Annotations_unsupervised").is_dir()
    folder = "Annotations_unsupervised" if there else "Annotations"
    return list_sequences(root, names=names, year="2017", annotations=folder)


def _annotated(root: Path, names: Collection[str] | None) -> list[SequenceFiles]:
    return list_annotated(root, names=names)


PROTOCOLS = {
    "davis16": Protocol(
        "every label but 0 is foreground; the first and the last frame of each sequence are left "
        "out. Averaged over the frames of a sequence first, then over the sequences.",
        "sequences",
        _davis16,
        inner_frames,
        score_davis16,
        by_sequence,
    ),
    "davis17-semi": Protocol(
        "each object by its label, void (255) is background; the first and the last frame are left "
        "out. Averaged over the frames of an object first, then over all objects.",
        "objects",
        _davis17,
        inner_frames,
        score_semi,
        by_object,
        objects=True,
    ),
    "davis17-unsup": Protocol(
        "up to 20 proposals, each object's is the one that fits it best over the whole sequence "
        "(Hungarian); void (255) is left out; all frames. Averaged over the frames of an object "
        "first, then over all objects.",
        "objects",
        _davis17_unsup,
        all_frames,
        score_unsup,
        by_object,
        objects=True,
    ),
    "fbms": Protocol(
        "all objects are one foreground; the annotated frames only, without those that show no "
        "object. Averaged over the frames of a sequence first, then over the sequences.",
        "sequences",
        _annotated,
        annotated_frames,
        score_regions,
        by_sequence,
    ),
    "youtube-objects": Protocol(
        "all objects are one foreground; the annotated frames only, without those that show no "
        "object. Averaged over a video's frames, then over a category's videos, then over the "
        "categories.",
        "categories",
        _annotated,
        annotated_frames,
        score_regions,
        by_category,
    ),
    "vsod": Protocol(
        "soft maps against a foreground; the annotated frames only. MAE, S-measure, F-measure "
        "(beta^2 = 0.3) and E-measure, their maximum that of the mean curve. Averaged over the "
        "frames of a sequence first, then over the sequences.",
        "sequences",
        _annotated,
        annotated_frames,
        score_saliency,
        by_saliency,
        soft=True,
    ),
}


def summarise(scores: Sequence[Scores], protocol: str, options: Options) -> dict[str, Any]:
    """The numbers of a data set: the protocol's averages, others beside, and each sequence's."""
    rules = get(protocol)
    fixed = sum((Counter(each.fixed) for each in scores), Counter())
    return {
        "protocol": protocol,
        "averaging": rules.about,
        "average_of": rules.unit,
        "protocol_options": {k: v for k, v in options._asdict().items() if k != "fix"},
        "fixed": dict(fixed),
        **rules.summarise(scores),
        "frames": sum(len(each.frames) for each in scores),
        "sequences": len(scores),
    }
