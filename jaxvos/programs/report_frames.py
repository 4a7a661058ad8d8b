"""Small frames and masks as data: URIs, for a page that stands alone."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from jaxvos.davis_layout import LABELS, SequenceFiles
from jaxvos.metrics.reading import read_truth
from jaxvos.video import read_picture

SIZE = (240, 320)  # H, W in pixels that a picture may take
QUALITY = 60  # of WebP: about 8 kB for a frame of DAVIS
VOID = 255  # the label of pixels that no one judged, in data sets with several objects


Pictures = dict[tuple[str, str], dict[str, Any]]
"""By (sequence, frame) what `embed` gives."""


class Wanted(NamedTuple):
    """A frame to show: the picture, its annotation, and each run's mask, None where it has none."""

    picture: Path
    truth: Path
    masks: tuple[Path | None, ...]


def find_frames(
    files: Sequence[SequenceFiles],
    frames: Mapping[str, Sequence[str]],
    folders: Sequence[Path | None],
) -> dict[tuple[str, str], Wanted]:
    """The files of the frames that have a picture, an annotation and some run's mask.

    Args:
        files: The sequences.
        frames: For each sequence the names of its frames that are wanted.
        folders: Each run's folder of masks SEQUENCE/FRAME.png, or None.
    """
    found = {}
    for each in files:
        wanted = set(frames[each.name])
        for picture, truth in zip(each.frames, each.masks, strict=True):
            masks = tuple(_mask(folder, each.name, picture.stem) for folder in folders)
            if picture.stem in wanted and truth is not None and any(masks):
                found[each.name, picture.stem] = Wanted(picture, truth, masks)
    return found


def _mask(folder: Path | None, sequence: str, frame: str) -> Path | None:
    path = None if folder is None else folder / sequence / f"{frame}.png"
    return path if path is not None and path.is_file() else None


def embed_all(frames: Mapping[tuple[str, str], Wanted], *, void: bool) -> Pictures:
    """What `embed` gives of each frame."""
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # decoding and encoding release the lock
        embedded = pool.map(lambda frame: embed(frame, void=void), frames.values())
        return dict(zip(frames, embedded, strict=True))


def embed(frame: Wanted, *, void: bool) -> dict[str, Any]:
    """The frame as {"picture": WebP, "masks": [PNG of `codes`, or None, per run]}, data: URIs.

    Args:
        frame: Its files.
        void: Whether the annotation's label 255 is of pixels that do not count.
    """
    picture = read_picture(frame.picture)
    height, width = picture.shape[:2]
    scale = min(1, SIZE[0] / height, SIZE[1] / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    counted = _resized(_labels(frame.truth) != VOID, size) if void else True
    grey = frame.truth.suffix.lower() == ".png"
    truth = foreground(frame.truth) if grey else read_truth(frame.truth)
    truth = _resized(truth, size) & counted
    masks = [
        None if path is None else _png(codes(_resized(foreground(path), size) & counted, truth))
        for path in frame.masks
    ]
    shown = _uri(Image.fromarray(small), "webp", quality=QUALITY, method=2)
    return {"picture": shown, "masks": masks}


def codes(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[H, W] uint8 of two masks: 0 in neither, 1 false, 2 missed, 3 correct foreground."""
    return prediction.astype(np.uint8) + 2 * truth.astype(np.uint8)


def foreground(path: Path) -> np.ndarray:
    """[H, W] bool of a mask: every label but 0; of a soft map, what is above 127."""
    values = _labels(path)
    soft = len(np.unique(values)) > LABELS
    return values > 127 if soft else values != 0


def _labels(path: Path) -> np.ndarray:
    """[H, W] values of a picture with or without a palette; of 16 bits the upper 8."""
    with Image.open(path) as picture:
        picture.load()
    if picture.mode.startswith("I"):
        return (np.asarray(picture) >> 8).astype(np.uint8)
    return np.asarray(picture if picture.mode in ("1", "L", "P") else picture.convert("L"))


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at another (W, H): what more than half of a new pixel's area is."""
    grey = cv2.resize(255 * mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    return grey > 127


def _png(values: np.ndarray) -> str:
    """Codes 0 to 3 as a PNG of two bits a pixel, in the greys 0, 85, 170 and 255."""
    picture = Image.fromarray(values)
    picture.putpalette([85 * code for code in range(4) for _ in "RGB"])
    return _uri(picture, "png", bits=2, optimize=True)


def _uri(picture: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
