"""YouTube-VOS, FBMS and YouTube-Objects as TFDS data sets: one record an annotated frame.

    ROOT/train/{JPEGImages,Annotations}/VIDEO/00005.{jpg,png}   YouTube-VOS, with its list of
    ROOT/train/meta.json                                        videos; train_all_frames will do,
                                                                and ROOT may be one of the two
    ROOT/{Trainingset,Testset}/SEQUENCE/*.jpg                   FBMS, with SEQUENCE/GroundTruth/*
    ROOT/CATEGORY/data/VIDEO/shots/SHOT/images/*.jpg            YouTube-Objects, with SHOT/labels/*

The last two also as papers share them (`jaxvos.layouts`). Only some frames have masks: every fifth
of YouTube-VOS, every tenth of YouTube-Objects, some twenty apart in FBMS. A video here is those
frames alone, in order, and all others are left out: what training takes for neighbours is that far
apart, and so is flow that is estimated between them. A record's "name" is its frame's own,
camel01_0020, and so holds its number.

YouTube-VOS keeps its numbers of objects; of its valid and test there are masks of first frames
alone, so that train is all that is read. Masks that are .png stay the files' own bytes; FBMS's and
YouTube-Objects' other formats become PNG of 0 and 255, all objects as one, as they are scored.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.data_set import VIDEO, DataSet, Record
from data_pipelines.encoded import decode_mask
from data_pipelines.pairs import Pair, check_count, check_pairs
from jaxvos.davis_layout import SequenceFiles, list_sequences, some
from jaxvos.layouts import list_annotated
from jaxvos.metrics.reading import read_truth

Splits = dict[str, list[SequenceFiles]]

COUNTS = {
    "youtube_vos": {"train": 3471},
    "fbms": {"train": 29, "test": 30},
    "youtube_objects": {"train": 126},
}
"""Data set -> split -> its videos. How many of their frames have masks is not compared."""


class Annotated(DataSet, skip_registration=True):
    """What videos have in common of which some frames have masks."""

    FIELDS = (*VIDEO, ("name", str), ("mask", bytes))
    DECODED = True
    """Whether masks are decoded, all of them, before anything is written."""

    def _kept(self, found: Splits) -> Splits:
        """Of each video the frames with masks, all files looked at."""
        for split, sequences in found.items():
            _check(sequences, decode=self.DECODED)
            what = f"videos of the {split} split of {self.name}"
            official = COUNTS[self.name][split]
            check_count(what, len(sequences), official, partial=self.allow_partial)
        return {split: [_annotated(files) for files in videos] for split, videos in found.items()}

    def _records(self, found: Sequence[SequenceFiles]) -> Iterator[Record]:
        for video, frames, masks in found:
            for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
                yield {
                    "video": video,
                    "frame": number,  # among those with a mask
                    "name": frame.stem,
                    "picture": frame.read_bytes(),
                    "mask": mask.read_bytes() if _is_png(mask) else _png(_read(mask)),
                }


class YoutubeVos(Annotated, skip_registration=True):
    """YouTube-VOS: 3,471 videos to train on, with masks of several objects."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack train.zip; name the folder that holds train."
    HOMEPAGE = "https://youtube-vos.org"
    DECODED = False  # there are far more of them, and all are palette PNGs

    def _found(self, root: Path) -> Splits:
        return self._kept({"train": list_youtube_vos(root, partial=self.allow_partial)})


class Fbms(Annotated, skip_registration=True):
    """FBMS-59: 29 videos to train on and 30 to test on, whose moving objects are annotated."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack Trainingset and Testset into one folder; name it."
    HOMEPAGE = "https://lmb.informatik.uni-freiburg.de/resources/datasets/"

    def _found(self, root: Path) -> Splits:
        return self._kept(list_fbms(root, partial=self.allow_partial))


class YoutubeObjects(Annotated, skip_registration=True):
    """YouTube-Objects: 126 shots of ten categories; there are no splits, all of it is train."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Name the folder that holds the categories, aeroplane to train."
    HOMEPAGE = "https://vision.cs.utexas.edu/projects/videoseg/"

    def _found(self, root: Path) -> Splits:
        return self._kept({"train": list_annotated(root)})


def list_youtube_vos(root: Path, *, partial: bool = False) -> list[SequenceFiles]:
    """The videos to train on, those of meta.json or, without it, all; masks may be None.

    Args:
        root: The folder with train, or with train_all_frames, or one of them.
        partial: Leave out videos that meta.json lists and that are not there.

    Raises:
        FileNotFoundError: None of the folders is there, or not those of all videos.
        ValueError: meta.json is no list of videos, or lists frames that have no mask.
    """
    homes = (root / "train", root / "train_all_frames", root)
    kinds = ("JPEGImages", "Annotations")
    home = next((h for h in homes if all((h / kind).is_dir() for kind in kinds)), None)
    if home is None:
        raise FileNotFoundError(
            f"{root} has no train/JPEGImages with train/Annotations, nor has train_all_frames or "
            f"{root.name} itself. YouTube-VOS's train.zip unpacks to train."
        )
    if not (home / "meta.json").is_file():
        return list_sequences(home, split=None)
    listed = _listed(home / "meta.json")
    names = [name for name in listed if not partial or (home / kinds[0] / name).is_dir()]
    found = list_sequences(home, names=names)
    bare = [
        f"{video.name}/{frame}"
        for video in found
        for frame in sorted(listed[video.name] - {mask.stem for mask in video.masks if mask})
    ]
    if bare:
        raise ValueError(
            f"{len(bare)} frames that {home / 'meta.json'} lists have no mask: {some(bare)}."
        )
    return found


def list_fbms(root: Path, *, partial: bool = False) -> Splits:
    """The sequences of the training set and of the test set, masks may be None.

    Args:
        root: The folder with Trainingset and Testset.
        partial: One of the two will do.
    """
    found = {}
    for split, ending in (("train", "trainingset"), ("test", "testset")):
        homes = [p for p in root.iterdir() if p.is_dir() and p.name.lower().endswith(ending)]
        if homes:
            found[split] = list_annotated(min(homes))
        elif not partial:
            raise FileNotFoundError(
                f"{root} has no folder {ending.capitalize()}. FBMS has Trainingset and Testset, "
                "each an archive of its own; for one of them pass --partial (partial=True)."
            )
    if not found:
        raise FileNotFoundError(f"{root} has neither Trainingset nor Testset.")
    return found


def _listed(path: Path) -> dict[str, set[str]]:
    """The videos of a meta.json, by name, and which of their frames show an object."""
    try:
        videos = json.loads(path.read_text())["videos"]
        return {
            name: {frame for each in video["objects"].values() for frame in each["frames"]}
            for name, video in sorted(videos.items())
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no list of videos, objects and frames: {type(error).__name__}: {error}."
        ) from error


def _annotated(files: SequenceFiles) -> SequenceFiles:
    """The frames of a video that have a mask."""
    pairs = [(f, m) for f, m in zip(files.frames, files.masks, strict=True) if m is not None]
    frames, masks = zip(*pairs, strict=True)
    return SequenceFiles(files.name, frames, masks)


def _check(sequences: Sequence[SequenceFiles], *, decode: bool) -> None:
    """Refuses videos without any mask and files that cannot be read or differ in size.

    Only the headers of the files are read, and the whole masks if they are to be decoded.
    """
    bare = [files.name for files in sequences if not any(files.masks)]
    if bare:
        raise ValueError(f"{len(bare)} videos have no mask at all: {some(bare)}.")
    kept = [_annotated(files) for files in sequences]
    check_pairs(
        Pair(files.name, frame, mask)
        for files in kept
        for frame, mask in zip(files.frames, files.masks, strict=True)
    )
    broken = []
    for mask in (mask for files in kept for mask in files.masks) if decode else ():
        try:
            _read(mask)
        except ValueError as error:
            broken.append(error)
    if broken:
        raise ValueError(f"{len(broken)} masks cannot be used: {some(broken)}")


def _read(path: Path) -> np.ndarray:
    """A mask [H, W]: uint8 as a PNG holds it, bool of any other format."""
    if _is_png(path):
        return decode_mask(path.read_bytes(), str(path))
    return read_truth(path)


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def _png(foreground: np.ndarray) -> bytes:
    """A mask [H, W] bool as a PNG of 0 and 255."""
    done, data = cv2.imencode(".png", 255 * foreground.astype(np.uint8))
    if not done:
        raise ValueError(f"OpenCV cannot write a mask {foreground.shape} as PNG.")
    return data.tobytes()
