"""Finds the frames and masks of data sets that are not laid out like DAVIS, as they are shipped.

    [CATEGORY/]JPEGImages and Annotations trees       FBMS, YouTube-Objects as papers share them
    SEQUENCE/*.jpg, SEQUENCE/GroundTruth/*            FBMS-59 (.ppm, .pgm; NAME_gt.ppm)
    CATEGORY/data/VIDEO/shots/SHOT/{images,labels}    YouTube-Objects' masks (labels are JPEG)
    SEQUENCE/Imgs, SEQUENCE/GT_object_level           DAVSOD
    SEQUENCE/Imgs, SEQUENCE/ground-truth              ViSal, SegTrack-v2, FBMS in the VSOD packs
    SEQUENCE/RGB, SEQUENCE/GT                         what DPA and TMO were published with

A mask belongs to the frame of its name, whatever its ending and with or without "_gt"; frames
without a mask are frames that nobody annotated. Nothing is decoded to list a data set.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxvos.davis_layout import PICTURES, SequenceFiles, pictures, some

FRAME_FOLDERS = ("Imgs", "images", "Frame", "Frames", "RGB")
MASK_FOLDERS = ("GT_object_level", "GroundTruth", "ground-truth", "labels", "GT")
MASKS = (".ppm", ".png", ".pgm", ".jpg", ".bmp")
"""Endings of masks, the most trustworthy first: FBMS-59's grey .pgm beside a colour .ppm of the
same frame merges objects with the background."""
SCAFFOLD = ("data", "shots", "Testset", "TestSet", "Trainingset", "480p")
"""Folders of the shipped archives that say nothing: they are left out of a sequence's name."""


def list_annotated(root: str | Path, *, names: Iterable[str] | None = None) -> list[SequenceFiles]:
    """The sequences with masks of a data set, in any of the layouts above, by name.

    A sequence's name is its path without the archive's scaffolding: cars1, aeroplane/0001/001.

    Args:
        root: The folder of the data set.
        names: The sequences wanted; None for all.

    Raises:
        FileNotFoundError: There is no such folder, nothing in it is a sequence, or not those named.
        ValueError: A sequence has no frames or masks that belong to none.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    folders = dict(_folders(root))
    if not folders:
        raise FileNotFoundError(
            f"No sequence with masks was found under {root}. Known are JPEGImages/SEQUENCE with "
            f"Annotations/SEQUENCE, SEQUENCE/*.jpg with SEQUENCE/GroundTruth, and SEQUENCE/"
            f"({', '.join(FRAME_FOLDERS)}) with SEQUENCE/({', '.join(MASK_FOLDERS)})."
        )
    wanted = sorted(folders) if names is None else list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in folders]
    if missing:
        raise FileNotFoundError(
            f"{root} has no sequence {some(missing)}. It has: {some(sorted(folders))}."
        )
    return [_sequence(name, *folders[name]) for name in wanted]


def _folders(root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """(name, (folder of frames, folder of masks)) of every sequence below the root."""
    for here, folders, files in os.walk(root):
        folders.sort()
        here, below = Path(here), set(folders)
        if {"JPEGImages", "Annotations"} <= below:
            yield from _twin_trees(here / "JPEGImages", here / "Annotations", root)
            folders.clear()
            continue
        masks = next((name for name in MASK_FOLDERS if name in below), None)
        frames = next((name for name in FRAME_FOLDERS if name in below), None)
        if masks and (frames or any(Path(name).suffix.lower() in PICTURES for name in files)):
            yield _name(here, root), (here / frames if frames else here, here / masks)
            folders.clear()


def _twin_trees(frames: Path, masks: Path, root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """Sequences of two trees of the same shape; one without a folder of masks is left out."""
    for here, folders, files in os.walk(frames):
        folders.sort()
        twin = masks / Path(here).relative_to(frames)
        if twin.is_dir() and any(Path(name).suffix.lower() in PICTURES for name in files):
            yield _name(frames.parent / Path(here).relative_to(frames), root), (Path(here), twin)


def _name(folder: Path, root: Path) -> str:
    parts = [part for part in folder.relative_to(root).parts if part not in SCAFFOLD]
    return "/".join(parts) or root.name


def _sequence(name: str, frames: Path, masks: Path) -> SequenceFiles:
    """The files of two folders, matched by their names."""
    shown = pictures(frames)
    if not shown:
        raise ValueError(f"{frames} holds no pictures ({', '.join(PICTURES)}).")
    by_name: dict[str, Path] = {}
    for ending in reversed(MASKS):
        found = sorted(path for path in masks.iterdir() if path.suffix.lower() == ending)
        # FBMS-59 has pictures of probabilities beside some masks.
        by_name |= {path.stem.removesuffix("_gt"): path for path in found if not _odd(path)}
    strays = sorted(by_name.keys() - {path.stem for path in shown})
    if strays:
        raise ValueError(
            f"Masks that belong to no frame of {frames}: {some([by_name[s] for s in strays])}."
        )
    return SequenceFiles(name, tuple(shown), tuple(by_name.get(path.stem) for path in shown))


def _odd(path: Path) -> bool:
    return path.name.startswith(".") or "PROB" in path.name
