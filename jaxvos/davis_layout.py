"""Finds the frames and masks of a data set on disk that is laid out like DAVIS.

    ROOT/JPEGImages/480p/SEQUENCE/00000.jpg     or without the 480p
    ROOT/Annotations/480p/SEQUENCE/00000.png    a mask is named after its frame
    ROOT/ImageSets/2016/val.txt                 names of sequences, or
    ROOT/ImageSets/480p/val.txt                 pairs of files: the picture and its mask

Without ImageSets every sequence counts. Nothing is decoded to list a data set.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PICTURES = (".jpg", ".jpeg", ".png")

LABELS = 22
"""Most different values in a label picture: background, 20 proposals (DAVIS 2017), void."""


class SequenceFiles(NamedTuple):
    """The files of one sequence, in order.

    Attributes:
        name: The folder's name.
        frames: T pictures.
        masks: For each frame its mask, or None where there is none.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]


def list_sequences(
    root: str | Path,
    *,
    split: str | None = "val",
    names: Iterable[str] | None = None,
    year: str = "2016",
    annotations: str = "Annotations",
) -> list[SequenceFiles]:
    """The sequences of a data set.

    Args:
        root: The folder that holds JPEGImages, Annotations and, where there are splits, ImageSets.
        split: Which list of ImageSets to follow; None for every sequence there is. Without
            ImageSets it makes no difference.
        names: The sequences wanted, whatever the split.
        year: Which lists of names to follow, ImageSets/YEAR.
        annotations: The folder of the masks; DAVIS 2017 has Annotations_unsupervised beside.

    Raises:
        FileNotFoundError: A folder, a list or a listed file is missing; the message names it.
        ValueError: A sequence has no frames, or masks that belong to no frame.
    """
    root = Path(root)
    frames, masks = _folder(root, "JPEGImages"), _folder(root, annotations)
    found = sorted(folder.name for folder in frames.iterdir() if folder.is_dir())
    if names is not None:
        wanted, source = list(dict.fromkeys(names)), "the given names"
    elif split is None or not (root / "ImageSets").is_dir():
        wanted, source = found, str(frames)
    else:
        listing = _split_file(root, split, year)
        wanted, source = _listed(listing, root), str(listing)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise FileNotFoundError(
            f"{frames} has no folder for {some(missing)} of {source}. "
            f"It has: {some(found) or 'none'}."
        )
    if not wanted:
        raise ValueError(f"No sequences in {source}.")
    return [_sequence(frames / name, masks / name) for name in wanted]


def read_labels(path: str | Path) -> np.ndarray:
    """[H, W] labels of a mask on disk, bool (1-bit PNG) or uint8 (8-bit grey or palette indices).

    Raises:
        OSError: The file is missing or may not be read.
        ValueError: The picture is broken, or not of labels: colours, 16 bits, a soft map.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if getattr(error, "filename", None):  # not Pillow's words but the system's, who names it
            raise
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    if picture.mode not in ("1", "L", "P"):
        raise ValueError(
            f"{path} holds no labels but {picture.mode} pixels. Save masks as PNG with 1 bit, with "
            f"a palette, or with 8 bits grey."
        )
    labels = np.asarray(picture)
    # Most masks hold one value beside 0, which is seen far quicker than values are counted.
    other = (labels != 0) & (labels != labels.max(initial=0))
    if other.any() and picture.getcolors(LABELS) is None:
        raise ValueError(
            f"{path} holds more than {LABELS} different values: it is a soft map, not a mask. "
            f"Threshold before saving, for example (scores > 0.5) or (grey > 127)."
        )
    return labels


def some(names: Sequence[object], most: int = 5) -> str:
    """The names for a message: all of them, or the first `most` and how many more there are."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _folder(root: Path, kind: str) -> Path:
    """ROOT/KIND/480p, or ROOT/KIND where there are no resolutions."""
    if not (root / kind).is_dir():
        raise FileNotFoundError(
            f"{root} has no folder {kind}. DAVIS has JPEGImages/480p/SEQUENCE/*.jpg and "
            f"Annotations/480p/SEQUENCE/*.png, or both without the 480p."
        )
    return root / kind / "480p" if (root / kind / "480p").is_dir() else root / kind


def _split_file(root: Path, split: str, year: str) -> Path:
    """The list of a split: that of names if there is one, else that of pairs of files."""
    candidates = [root / "ImageSets" / folder / f"{split}.txt" for folder in (year, "480p")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    present = sorted(str(path.relative_to(root)) for path in root.glob("ImageSets/**/*.txt"))
    raise FileNotFoundError(
        f"No list of the split {split!r}: neither {candidates[0]} nor {candidates[1]} exists. "
        f"There are: {some(present) or 'none'}."
    )


def _listed(listing: Path, root: Path) -> list[str]:
    """Names of sequences in a list, each once, in order; files that it lists must exist."""
    lines = [line.split() for line in listing.read_text().splitlines() if line.strip()]
    paths = [root / entry.lstrip("/") for line in lines for entry in line if "/" in entry]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{listing} lists files that are missing: {some(missing)}.")
    return list(dict.fromkeys(Path(line[0]).parent.name or line[0] for line in lines))


def _sequence(frames: Path, masks: Path) -> SequenceFiles:
    """The files of two folders, matched by their names."""
    shown = pictures(frames)
    if not shown:
        raise ValueError(f"{frames} holds no pictures ({', '.join(PICTURES)}).")
    by_name = {path.stem: path for path in pictures(masks, (".png",))} if masks.is_dir() else {}
    strays = [by_name[name] for name in by_name.keys() - {path.stem for path in shown}]
    if strays:
        raise ValueError(f"Masks that belong to no frame of {frames}: {some(sorted(strays))}.")
    return SequenceFiles(frames.name, tuple(shown), tuple(by_name.get(path.stem) for path in shown))


def pictures(folder: Path, suffixes: tuple[str, ...] = PICTURES) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names: 9 comes before 10."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    named = sorted(
        (path for path in found if not path.name.startswith(".")),
        key=lambda path: [(text, int(n or -1)) for text, n in re.findall(r"(\D*)(\d*)", path.stem)],
    )
    twice = [b for a, b in pairwise(named) if a.stem == b.stem]
    if twice:
        raise ValueError(f"Two pictures of the same name, with different endings: {some(twice)}.")
    return named
