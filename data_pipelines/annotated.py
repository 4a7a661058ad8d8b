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
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.encoded import decode_mask
from data_pipelines.pairs import Pair, check_count, check_pairs
from jaxvos.davis_layout import SequenceFiles, list_sequences, some
from jaxvos.layouts import list_annotated
from jaxvos.metrics.reading import read_truth

Examples = Iterator[tuple[int, dict[str, Any]]]
Splits = dict[str, list[SequenceFiles]]

COUNTS = {
    "youtube_vos": {"train": 3471},
    "fbms": {"train": 29, "test": 30},
    "youtube_objects": {"train": 126},
}
"""Data set -> split -> its videos. How many of their frames have masks is not compared."""


class YoutubeVos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """YouTube-VOS: 3,471 videos to train on, with masks of several objects."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack train.zip; name the folder that holds train."
    allow_partial = False

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "https://youtube-vos.org")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root, partial = Path(dl_manager.manual_dir), self.allow_partial
        return _splits(self, {"train": list_youtube_vos(root, partial=partial)})

    def _generate_examples(self, sequences: Sequence[SequenceFiles]) -> Examples:
        return _examples(sequences)


class Fbms(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """FBMS-59: 29 videos to train on and 30 to test on, whose moving objects are annotated."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack Trainingset and Testset into one folder; name it."
    allow_partial = False

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "https://lmb.informatik.uni-freiburg.de/resources/datasets/")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        return _splits(self, list_fbms(root, partial=self.allow_partial))

    def _generate_examples(self, sequences: Sequence[SequenceFiles]) -> Examples:
        return _examples(sequences)


class YoutubeObjects(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """YouTube-Objects: 126 shots of ten categories; there are no splits, all of it is train."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, and needs importlib_resources to
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Name the folder that holds the categories, aeroplane to train."
    allow_partial = False

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, "https://vision.cs.utexas.edu/projects/videoseg/")

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return _splits(self, {"train": list_annotated(dl_manager.manual_dir)})

    def _generate_examples(self, sequences: Sequence[SequenceFiles]) -> Examples:
        return _examples(sequences)


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


def _info(builder: tfds.core.GeneratorBasedBuilder, homepage: str) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        description=type(builder).__doc__,
        features=tfds.features.FeaturesDict(
            {
                "video": tfds.features.Text(),
                "frame": tfds.features.Scalar(np.int32),  # among those with a mask
                "name": tfds.features.Text(),  # the file's own, without ending
                "picture": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # JPEG
                "mask": tfds.features.Tensor(shape=(), dtype=np.bytes_),  # PNG
            }
        ),
        homepage=homepage,
        metadata=tfds.core.MetadataDict(),
        disable_shuffling=True,  # frames stay in order, one video after the other
    )


def _splits(builder: YoutubeVos | Fbms | YoutubeObjects, found: Splits) -> dict[str, Any]:
    """The examples of each split, all files looked at."""
    # YouTube-VOS has far more masks, all of them palette PNGs.
    for split, sequences in found.items():
        _check(sequences, decode=not isinstance(builder, YoutubeVos))
        what = f"videos of the {split} split of {builder.name}"
        official = COUNTS[builder.name][split]
        check_count(what, len(sequences), official, partial=builder.allow_partial)
    found = {split: [_annotated(files) for files in videos] for split, videos in found.items()}
    videos = {
        split: [[files.name, len(files.frames)] for files in sequences]
        for split, sequences in found.items()
    }
    builder.info.metadata.update(videos=videos, partial=builder.allow_partial)
    return {split: builder._generate_examples(sequences) for split, sequences in found.items()}


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


def _examples(sequences: Sequence[SequenceFiles]) -> Examples:
    key = 0
    for video, frames, masks in sequences:
        for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            yield (
                key,
                {
                    "video": video,
                    "frame": number,
                    "name": frame.stem,
                    "picture": frame.read_bytes(),
                    "mask": mask.read_bytes() if _is_png(mask) else _png(_read(mask)),
                },
            )
            key += 1


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
