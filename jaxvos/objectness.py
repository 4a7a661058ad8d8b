"""Maps that say where in a frame objects are, whatever they do, and what scores become by them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from jaxvos.typing import Video

SUFFIXES = (".png", ".npy")


def weighed(scores: np.ndarray, objectness: np.ndarray, *, least: float = 0.5) -> np.ndarray:
    """Scores [H, W] times `least` plus the objectness, whose largest value counts as 1; 1 at most.

    A map that is zero everywhere is `least` everywhere.
    """
    largest = objectness.max()
    share = objectness / largest if largest > 0 else objectness
    return np.clip(scores * (share + least), 0, 1).astype(np.float32)


def maps_of(video: Video, folder: str | Path) -> Callable[[int], np.ndarray]:
    """A function that reads frame t's map [H, W] float32, not negative, of whatever scale.

    Args:
        video: Its frames bring their names, or are called 00000, 00001, ...
        folder: Of files FRAME.png, grey of 8 or 16 bits, or FRAME.npy, of the frames' size; or of
            such folders by the videos' names. `--scores` writes such files (OUT/scores).
    """
    own = Path(folder, video.name)
    own = own if own.is_dir() else Path(folder)
    names = getattr(video.frames, "names", None) or [f"{t:05d}" for t in range(len(video.frames))]
    files = {n: [f for f in (own / f"{n}{s}" for s in SUFFIXES) if f.is_file()] for n in names}
    missing = [name for name, found in files.items() if not found]
    if missing:
        raise ValueError(
            f"{own} has no map of {len(missing)} of the {len(names)} frames of {video.name}; the "
            f"first that is missing is {missing[0]} ({' or '.join(SUFFIXES)})."
        )
    size = video.frames[0].shape[:2]
    return lambda t: _read(files[names[t]][0], size)


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _grey(path)
    if values.shape != size:
        raise ValueError(f"{path} is {values.shape}, the frames are {size}: maps have their size.")
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"{path}: objectness is finite and not negative.")
    return values


def _grey(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        if picture.mode not in ("1", "L", "I", "I;16"):
            raise ValueError(f"{path} is {picture.mode} pixels; a map is grey, of 8 or 16 bits.")
        return np.asarray(picture)
