"""Reads predicted and true masks for scoring; what is odd is named, and mended only when told to.

Only numpy and Pillow are imported here: worker processes start quickly.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from jaxvos.davis_layout import read_labels

FIXES = {
    "missing": "a mask that is not there counts as empty",
    "size": "masks of another size are resized (nearest; soft maps bilinearly)",
    "threshold": "soft maps are cut: grey above 127 is foreground",
    "labels": "values like 0/255 are numbered 1, 2, ... in order; objects beyond the known ones go",
}
"""What `fix` may name, and what is then done about it."""

BACKGROUND = (255, 255, 255)
"""Of FBMS-59's colour masks (.ppm)."""


class Fixer:
    """Decides whether a fault may be mended, and counts what was.

    Attributes:
        counts: How often each fix was made.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = allowed
        self.counts: Counter[str] = Counter()

    def __call__(self, fix: str, fault: str) -> None:
        """Counts a fix; raises ValueError with the fault where it is not allowed."""
        if fix not in self._allowed:
            raise ValueError(f"{fault} (--fix {fix}: {FIXES[fix]}.)")
        self.counts[fix] += 1


def read_mask(path: Path | None, truth: np.ndarray, fix: Fixer, what: str) -> np.ndarray:
    """Predicted labels [H, W] of the truth's size, bool or uint8; `what` names a missing file."""
    if path is None:
        fix("missing", f"There is no mask {what}.")
        return np.zeros(truth.shape, bool)
    try:
        labels = read_labels(path)
    except ValueError as error:
        grey = _soft(path)
        if grey is None:
            raise
        fix("threshold", str(error))
        labels = grey > 127
    return labels if labels.shape == truth.shape else _resized(labels, path, truth, fix)


def read_soft(path: Path | None, truth: np.ndarray, fix: Fixer, what: str) -> np.ndarray:
    """A predicted soft map [H, W] uint8 of the truth's size; 16 bits are rounded to 8.

    A 1-bit mask is the map of 0 and 255.
    """
    if path is None:
        fix("missing", f"There is no map {what}.")
        return np.zeros(truth.shape, np.uint8)
    picture = _opened(path)
    if picture.mode == "1":
        grey = np.asarray(picture).astype(np.uint8) * 255
    elif picture.mode in ("I;16", "I;16B", "I"):
        wide = np.asarray(picture).astype(np.int64)
        if wide.min(initial=0) < 0 or wide.max(initial=0) > 65535:
            raise ValueError(f"{path}: values are {wide.min()} to {wide.max()}, not 0 to 65535.")
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    elif picture.mode == "L":
        grey = np.asarray(picture)
    else:
        raise ValueError(
            f"{path} is no soft map but {picture.mode} pixels. Save maps as grey PNG of 8 or 16 "
            f"bits, round(255 * p) or round(65535 * p)."
        )
    return grey if grey.shape == truth.shape else _resized(grey, path, truth, fix, soft=True)


def read_truth(path: Path) -> np.ndarray:
    """The foreground [H, W] bool of an annotation in any of the formats that data sets ship.

    PNG and PGM: every label but 0. Colour PPM (FBMS-59): all but white. JPEG (YouTube-Objects):
    above 127.
    """
    ending = path.suffix.lower()
    if ending == ".png":
        return read_labels(path) != 0
    picture = _opened(path)
    if ending == ".ppm":
        background = (np.asarray(picture.convert("RGB")) == BACKGROUND).all(axis=-1)
        if not background.any():
            raise ValueError(
                f"{path} has no white pixel, which is the background of a colour mask (.ppm)."
            )
        return ~background
    grey = np.asarray(picture.convert("L"))
    return grey > 127 if ending in (".jpg", ".jpeg") else grey != 0


def read_grey_truth(path: Path, fix: Fixer) -> np.ndarray:
    """The foreground [H, W] bool of a saliency annotation: above 128, as the measures define it."""
    if path.suffix.lower() == ".ppm":
        return read_truth(path)
    picture = _opened(path)
    if picture.mode == "1":
        return np.asarray(picture)
    grey = np.asarray(picture if picture.mode == "P" else picture.convert("L"))
    if 0 < grey.max(initial=0) <= 128:
        fix(
            "labels",
            f"{path} holds no value above 128 but {int(grey.max())}: these are labels, not 0 and "
            f"255, and all of it would count as background.",
        )
        return grey != 0
    return grey > 128


def numbered(labels: np.ndarray, known: int, path: str, fix: Fixer) -> np.ndarray:
    """Labels of at most `known` objects; others only with the fix "labels", by which they go.

    The fix numbers the values 1, 2, ... in order if there are no more of them than known objects.
    """
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    highest = int(labels.max(initial=0))
    if highest <= known:
        return labels
    values = np.unique(labels)
    values = values[values != 0]
    fix(
        "labels",
        f"{path} has the labels {', '.join(map(str, values[:8]))}{'...' * (len(values) > 8)}; "
        f"1 to {known} are expected.",
    )
    if len(values) <= known:
        table = np.zeros(256, np.uint8)
        table[values] = np.arange(1, len(values) + 1)
        return table[labels]
    return np.where(labels <= known, labels, 0)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if getattr(error, "filename", None):  # not Pillow's words but the system's, who names it
            raise
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def _soft(path: Path) -> np.ndarray | None:
    """The grey values of a readable 8-bit grey or colour picture; None for anything else."""
    try:
        picture = _opened(path)
    except (ValueError, OSError):
        return None
    return np.asarray(picture.convert("L")) if picture.mode in ("L", "RGB", "RGBA") else None


def _resized(
    values: np.ndarray, path: Path, truth: np.ndarray, fix: Fixer, *, soft: bool = False
) -> np.ndarray:
    fix(
        "size",
        f"{path} is {pixels(values)}, its annotation is {pixels(truth)}. Masks are scored at the "
        f"annotations' size: resize the scores first, then threshold them.",
    )
    kind = Image.Resampling.BILINEAR if soft else Image.Resampling.NEAREST
    picture = Image.fromarray(values.astype(np.uint8))
    resized = np.asarray(picture.resize(truth.shape[::-1], kind))
    return resized.astype(bool) if values.dtype == bool else resized


def pixels(mask: np.ndarray) -> str:
    """The size of an array [H, W] in words."""
    return " x ".join(str(size) for size in mask.shape[::-1]) + " pixels"
