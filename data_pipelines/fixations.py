"""Videos with recorded eye movements as a TFDS data set: one record a frame, the files' own bytes.

The folder is laid out like DAVIS (`jaxvos.davis_layout`), with two more folders beside:

    ROOT/JPEGImages/480p/SEQUENCE/00000.jpg     frames, or without the 480p, here and below
    ROOT/FixationMaps/480p/SEQUENCE/00000.png   where eyes rested, blurred: 0 nowhere, 255 most
    ROOT/Fixations/480p/SEQUENCE/00000.png      the very pixels, any value but 0; may be left out
    ROOT/Annotations/480p/SEQUENCE/00000.png    masks; the folder, or a sequence's, may be left out
    ROOT/ImageSets/2016/train.txt               names of sequences; without it, all are "train"

A single frame's map may be all zero where nobody looked at the screen; training leaves it out. A
sequence all of whose maps are zero is refused: nothing was recorded for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.data_set import VIDEO, DataSet, Record
from data_pipelines.encoded import column, decode_mask, decode_picture
from data_pipelines.pairs import Pair, check_pairs
from data_pipelines.video_records import VideoRecord
from jaxvos.davis_layout import list_sequences, some

MAPS, FIXATIONS, MASKS = "FixationMaps", "Fixations", "Annotations"
SPLITS = ("train", "val", "test")


class FixationFiles(NamedTuple):
    """The files of one sequence, in order; `fixations` and `masks` are empty where there are none.

    Attributes:
        name: The folder's name.
        frames: T pictures.
        maps: T fixation maps.
        fixations: T pictures of fixated pixels.
        masks: T masks.
    """

    name: str
    frames: tuple[Path, ...]
    maps: tuple[Path, ...]
    fixations: tuple[Path, ...]
    masks: tuple[Path, ...]


def list_fixations(root: str | Path, *, split: str | None = None) -> list[FixationFiles]:
    """The sequences of a folder, of one list of ImageSets or (None) all, and all files looked for.

    Raises:
        FileNotFoundError: A folder, a list or a listed file is missing.
        ValueError: A frame has no map, or other files are missing or belong to no frame.
    """
    root = Path(root)
    found = list_sequences(root, split=split, annotations=MAPS)
    names = [sequence.name for sequence in found]
    more = zip(_others(root, FIXATIONS, names), _others(root, MASKS, names), strict=True)
    files, problems = [], []
    for sequence, others in zip(found, more, strict=True):
        for kind, paths in zip((MAPS, FIXATIONS, MASKS), (sequence.masks, *others), strict=True):
            bare = [sequence.frames[t] for t, path in enumerate(paths) if path is None]
            if bare:
                problems.append(f"{len(bare)} frames have no file in {kind}: {some(bare)}.")
        files.append(FixationFiles(*sequence, *others))
    if problems:
        raise ValueError("\n".join(problems))
    return files


def _others(root: Path, kind: str, names: Sequence[str]) -> list[tuple[Path | None, ...]]:
    """For each sequence its frames' files of a kind that may be left out, () where it is."""
    if not (root / kind).is_dir():
        return [()] * len(names)
    found = list_sequences(root, names=names, annotations=kind)
    return [sequence.masks if any(sequence.masks) else () for sequence in found]


def decode_map(data: bytes, name: str) -> np.ndarray:
    """The fixation map [H, W] float32 in 0..1 that is encoded in `data`; `name` is for errors."""
    return decode_mask(data, name).astype(np.float32) / 255


def decode_fixations(data: bytes, name: str) -> np.ndarray:
    """The fixated pixels [H, W] bool that are encoded in `data`; `name` is for errors."""
    return decode_mask(data, name) != 0


def points_at(fixations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fixated pixels [H, W] bool at another size [h, w] bool; none is lost, as resizing would."""
    places = np.argwhere(fixations) * np.array(size) // np.array(fixations.shape)
    moved = np.zeros(size, bool)
    moved[places[:, 0], places[:, 1]] = True
    return moved


class Fixations(DataSet, skip_registration=True):
    """Videos with fixation maps, and where there are any with fixations and masks."""

    # What a video lacks is empty bytes.
    FIELDS = (*VIDEO, ("map", bytes), ("fixations", bytes), ("mask", bytes))
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Name the folder that holds JPEGImages and FixationMaps, and perhaps Fixations, "
        "Annotations and ImageSets."
    )

    def _found(self, root: Path) -> dict[str, list[FixationFiles]]:
        lists = [s for s in SPLITS if any(root.glob(f"ImageSets/*/{s}.txt"))]
        if (root / "ImageSets").is_dir() and not lists:
            raise FileNotFoundError(f"{root / 'ImageSets'} has none of the lists {SPLITS}.")
        splits = {s: list_fixations(root, split=s) for s in lists} or {
            "train": list_fixations(root)
        }
        for sequences in splits.values():
            _check(sequences)
        return splits

    def _records(self, found: Sequence[FixationFiles]) -> Iterator[Record]:
        for name, *columns in found:
            for number in range(len(columns[0])):
                files = [column[number].read_bytes() if column else b"" for column in columns]
                record = dict(zip(("picture", "map", "fixations", "mask"), files, strict=True))
                yield {"video": name, "frame": number} | record


def _check(sequences: Sequence[FixationFiles]) -> None:
    """Refuses files that cannot be read, differ in size from their frame, or say nothing at all."""
    check_pairs(
        Pair(sequence.name, frame, path)
        for sequence in sequences
        for column in (sequence.maps, sequence.fixations, sequence.masks)
        for frame, path in zip(sequence.frames, column, strict=False)  # or there are none
    )
    empty = [
        sequence.name
        for sequence in sequences
        if not any(decode_map(path.read_bytes(), str(path)).any() for path in sequence.maps)
    ]
    if empty:
        raise ValueError(
            f"All fixation maps of {len(empty)} sequences are zero: {some(empty)}. Nothing was "
            f"recorded for them; leave them out of {MAPS} and JPEGImages, or of the lists."
        )


def records(
    source: Sequence[Mapping[str, Any]], videos: Sequence[tuple[str, int]]
) -> list[VideoRecord]:
    """The videos of a prepared split with their maps, nothing of them decoded.

    Each has the masks and the points that its own files had, or None.

    Args:
        source: Its records, the frames of one video after the other.
        videos: (name, frames) of each, from the metadata: ["videos"][split].
    """
    made, start = [], 0
    for name, length in videos:
        first = source[start]
        read = partial(column, source, name, start, length)
        made.append(
            VideoRecord(
                name,
                read("picture", decode_picture),
                read("mask", decode_mask) if bytes(first["mask"]) else None,
                maps=read("map", decode_map),
                points=read("fixations", decode_fixations) if bytes(first["fixations"]) else None,
            )
        )
        start += length
    return made
