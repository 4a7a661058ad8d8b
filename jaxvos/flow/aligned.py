"""Flow of what moves against the scene: a neighbour is laid over the frame before flow is sought.

A homography of the whole picture is fitted to coarse flow (RANSAC), the neighbour is warped by it,
and DIS, or another search, then looks for what is left, down to single pixels. Hand-held and
panning cameras so cost the search nothing of its reach.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

TOLERANCE = 2.0
"""Pixels of the working size by which a place may be off the homography and still count for it."""
SPACING = 6
"""Pixels of half the working size between the places that the homography is fitted to."""
LEAST = 12
"""Places that a homography must explain; else the picture counts as at rest."""
FAST_ROUNDS = 2
"""Of the variational refinement, in place of DIS's own five: half of the time goes there."""


Search = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two pictures [H, W, 3] uint8 RGB -> flow [H, W, 2] float32 from the first to the second."""


class Aligned(NamedTuple):
    """Motion between a frame and a neighbour, in pixels of the working size (H, W).

    Attributes:
        residual: [H/2, W/2, 2] float32: what is left after the homography.
        homography: [3, 3] float64: pixel p + residual of the frame is at H (p + residual) in the
            neighbour.
    """

    residual: np.ndarray
    homography: np.ndarray


def aligned(
    frame: np.ndarray, neighbour: np.ndarray, *, fast: bool = False, search: Search | None = None
) -> Aligned:
    """The motion between two pictures uint8, H and W even: grey [H, W], or as `search` sees them.

    The residual is computed at their size and averaged over 2 x 2 pixels.

    Args:
        frame: The picture whose pixels' motion is wanted.
        neighbour: A picture taken before or after it.
        fast: Let DIS refine the residual in fewer rounds.
        search: Who looks for the residual, between pictures [H, W, 3] RGB; None is DIS.
    """
    shape = frame.shape[:2] if search is None else (*frame.shape[:2], 3)
    if not frame.shape == neighbour.shape == shape or any(side % 2 for side in shape[:2]):
        kind = "grey pictures [H, W]" if search is None else "pictures [H, W, 3]"
        raise ValueError(
            f"Motion is between {kind} of one size with even sides, not {frame.shape} and "
            f"{neighbour.shape}."
        )
    greys = frame, neighbour
    if search is not None:
        greys = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in greys)
    size = frame.shape[1::-1]
    homography = _global_motion(*greys)
    laid = cv2.warpPerspective(
        neighbour,
        homography,
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    residual = _residual(frame, laid, fast) if search is None else search(frame, laid)
    half = size[0] // 2, size[1] // 2
    return Aligned(cv2.resize(residual, half, interpolation=cv2.INTER_AREA), homography)


def _residual(frame: np.ndarray, laid: np.ndarray, fast: bool) -> np.ndarray:
    """DIS's flow [H, W, 2] between grey pictures, down to single pixels."""
    search = _search(0)
    if fast:
        search.setVariationalRefinementIterations(FAST_ROUNDS)
    return search.calc(frame, laid, None)


def whole(motion: Aligned) -> np.ndarray:
    """The whole flow [H/2, W/2, 2], camera's and own, in pixels of the working size."""
    places = _places(motion.residual.shape[:2])
    moved = places + motion.residual
    seen = cv2.perspectiveTransform(moved.reshape(1, -1, 2), motion.homography)
    return seen.reshape(places.shape) - places


def _global_motion(frame: np.ndarray, neighbour: np.ndarray) -> np.ndarray:
    """The homography [3, 3] from the frame to its neighbour that most of the picture follows."""
    half = frame.shape[1] // 2, frame.shape[0] // 2
    small = [cv2.resize(each, half, interpolation=cv2.INTER_AREA) for each in (frame, neighbour)]
    flow = _search(1).calc(*small, None)
    offset = SPACING // 2
    places = _places(flow.shape[:2])[offset::SPACING, offset::SPACING].reshape(-1, 2)
    seen = places + 2 * flow[offset::SPACING, offset::SPACING].reshape(-1, 2)
    found, inside = cv2.findHomography(places, seen, cv2.RANSAC, TOLERANCE)
    if found is None or inside.sum() < LEAST or not _tame(found, frame.shape):
        return np.eye(3)
    return found


def _tame(homography: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether the frame's corners keep their order and nearly their place: no fold, no flight."""
    height, width = size
    corners = np.float64([[0, 0], [width, 0], [width, height], [0, height]])
    seen = cv2.perspectiveTransform(corners[None], homography)[0]
    return bool(np.isfinite(seen).all() and np.abs(seen - corners).max() < max(size) / 2)


def _places(size: tuple[int, int]) -> np.ndarray:
    """Centres [h, w, 2] float32 (x, y) of 2 x 2 pixels of the working size."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    return np.stack([2 * columns + 0.5, 2 * rows + 0.5], axis=-1)


def _search(finest_scale: int) -> cv2.DISOpticalFlow:
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(finest_scale)
    return search


CHANNELS = 5
STEPS = (-1, 1, -2, 2)
"""Which neighbours of a frame are looked at."""
LEAST_MOTION = 0.15
"""Pixels that motion is measured in where there is hardly any: noise is not to look like motion."""


def neighbour(t: int, step: int, length: int) -> int:
    """The frame that stands in for t + step: itself, else the one as far on the other side.

    Where there is neither, the nearest end of the video; t in a video of one frame.
    """
    for other in (t + step, t - step):
        if 0 <= other < length:
            return other
    return t + 1 if t + 1 < length else max(t - 1, 0)


def channels(motion: Aligned) -> np.ndarray:
    """[H/2, W/2, 5] float32 without a scale: what a network is shown of a motion.

    The residual over its root mean square, x and y, cut off at 4; the logarithm of 1 + its length
    over the median length; the whole flow less its median over its own root mean square, x and y.
    """
    flow = whole(motion)
    x, y, length = _shown(motion.residual)
    across, down, _ = _shown(flow - np.median(flow[::2, ::2], axis=(0, 1)))
    median = np.float32(max(float(np.median(length[::2, ::2])), LEAST_MOTION))
    return cv2.merge([x, y, np.log1p(length / median), across, down])


def _shown(field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y of a field [H, W, 2] over its root mean square, cut off, and its length in pixels."""
    x, y = cv2.split(field)
    length = cv2.magnitude(x, y)
    spread = np.float32(max(np.linalg.norm(length) / np.sqrt(length.size), LEAST_MOTION))
    return np.clip(x / spread, -4, 4), np.clip(y / spread, -4, 4), length
