"""Made-up clips, each rendered once as long as there is room to keep it."""

import threading
from collections import OrderedDict

import numpy as np

from data_pipelines.procedural import World, clip

KEPT_BYTES = 256 * 2**20
"""How much of this process's memory the rendered clips may take."""

_kept: OrderedDict[tuple, tuple[np.ndarray, np.ndarray]] = OrderedDict()
_lock = threading.Lock()


def cached_clip(
    index: int, *, seed: int, frames: int, size: tuple[int, int], world: World
) -> tuple[np.ndarray, np.ndarray]:
    """The frames [T, H, W, 3] and labels [T, H, W] of a clip, read-only; see `procedural.clip`.

    Those asked for last are kept, so reading one clip frame by frame renders it once.
    """
    key = index, seed, frames, size, world
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    video = clip(index, seed=seed, frames=frames, size=size, world=world)
    video.frames.flags.writeable = video.labels.flags.writeable = False
    with _lock:
        _kept[key] = video.frames, video.labels
        # The newest stays even if it is larger than all the room there is.
        while len(_kept) > 1 and _bytes() > KEPT_BYTES:
            _kept.popitem(last=False)
    return video.frames, video.labels


def _bytes() -> int:
    return sum(frames.nbytes + labels.nbytes for frames, labels in _kept.values())
