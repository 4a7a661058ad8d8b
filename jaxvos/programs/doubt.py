"""Plain sentences about results that a person should not trust without a look."""

from collections.abc import Sequence

import cv2
import numpy as np

AT_REST = 0.5
"""Grey levels by which small pictures of neighbouring frames differ where anything moves at all."""
MOST = 0.5
"""A share of the picture, above which the foreground is hardly an object."""
SMALL = (64, 48)


class Changes:
    """How much a video changes from frame to frame.

    Attributes:
        largest: The largest mean difference of two neighbouring frames so far, in grey levels.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self._before: np.ndarray | None = None

    def see(self, frame: np.ndarray) -> None:
        """The next frame, [H, W, 3] uint8."""
        small = cv2.resize(frame, SMALL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if self._before is not None:
            self.largest = max(self.largest, float(np.abs(small - self._before).mean()))
        self._before = small


def doubts(foreground: Sequence[float], change: float) -> list[str]:
    """What may be wrong with masks, a sentence each; none where nothing stands out.

    Args:
        foreground: The share of each frame that is foreground, 0 to 1.
        change: `Changes.largest` of the video.
    """
    found = []
    if len(foreground) < 2:
        found.append("There is a single frame: what moves cannot be told.")
    elif change < AT_REST:
        found.append(
            "Camera and scene stand still: a system that looks for motion can find nothing here."
        )
    if not any(foreground):
        found.append("Nothing was found: the masks are empty.")
    elif np.median(foreground) > MOST:
        found.append(
            f"Nearly everything is foreground, {np.median(foreground):.0%} of the middle frame: "
            "where most of the picture moves by itself, objects cannot be told from the scene."
        )
    return found
