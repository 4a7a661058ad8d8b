"""The motion clue: which of several places an object is at, by the way that it came.

On the host: a few numbers a frame. Places are (x, y) on any one grid.
"""

from typing import NamedTuple

import numpy as np


class Track(NamedTuple):
    """The object's way so far, on one grid.

    Attributes:
        centres: (x, y) of the frames in which it was seen; the last six count, so five steps.
        hidden: Frames since then, in which it was not.
    """

    centres: tuple[tuple[float, float], ...] = ()
    hidden: int = 0


def expected_centre(track: Track) -> np.ndarray:
    """Where the object should be, (x, y): its mean step further than the last centre.

    The step shrinks to 0.9 with every frame hidden; with one centre only there is none.
    """
    centres = np.asarray(track.centres[-6:], np.float64)
    if len(centres) == 1:
        return centres[0]
    return centres[-1] + 0.9**track.hidden * np.diff(centres, axis=0).mean(axis=0)


def choose(found: np.ndarray, track: Track | None) -> tuple[float, float]:
    """(x, y) of that peak of [N, 3] which is nearest (L1) to where the object should be.

    Without a track it is the highest one, or the second where that lies at the left or upper edge.
    """
    places = found[:, 1:]
    if track is None or not track.centres:
        best = int((places[0] == 0).any())
    else:
        best = np.abs(places - expected_centre(track)).sum(axis=1).argmin()
    return tuple(places[best].tolist())
