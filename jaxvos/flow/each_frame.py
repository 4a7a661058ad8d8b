"""A field of flow for each frame of a video, the last one included, and at another size."""

from collections.abc import Iterator

import cv2
import numpy as np

from jaxvos.typing import Video


def check_flow(video: Video, system: str, otherwise: str = "") -> None:
    """Refuses a video without flow from each of its frames to the next.

    Args:
        video: What is to be segmented; one of a single frame needs no flow.
        system: Who needs it, for the message.
        otherwise: How the system goes without, if it can.
    """
    needed = len(video.frames) - 1
    if needed > 0 and video.flow is None:
        raise ValueError(
            f"{video.name} has no optical flow, which {system} looks at. It is computed with "
            "--flow dis or raft:WEIGHTS, or read from a folder, --flow FOLDER; in Python it is "
            f"Video's `flow`.{otherwise and f' Or {otherwise}.'}"
        )
    if needed > 0 and len(video.flow) < needed:
        raise ValueError(
            f"{video.name} has {needed + 1} frames and {len(video.flow)} fields of flow: {system} "
            f"needs one from each frame to the next, {needed}{otherwise and f', or {otherwise}'}."
        )


def flow_at(video: Video, t: int) -> np.ndarray:
    """The field [H, W, 2] of frame t; the last frame's is the one before's, a single one's zero."""
    last = len(video.frames) - 2
    if last >= 0:
        return video.flow[min(t, last)]
    return np.zeros((*video.frames[t].shape[:2], 2), np.float32)


def flow_of_each_frame(video: Video) -> Iterator[np.ndarray]:
    """T fields [H, W, 2], as `flow_at` has them, each computed once."""
    count = len(video.frames)
    for t in range(count):
        if t == 0 or t < count - 1:
            field = flow_at(video, t)
        yield field


def fit_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow [H, W, 2] as that of frames squashed to `size`, in their pixels, float32."""
    ratio = np.float32([new / old for new, old in zip(size[::-1], flow.shape[1::-1], strict=True)])
    flow = np.asarray(flow, np.float32)
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_LINEAR) * ratio


def places_of(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow [H, W, 2] at the places of a grid (h, w), nearest; its values stay in its own pixels."""
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, flow.shape[:2], strict=True)
    )
    return np.asarray(flow[rows[:, None], columns], np.float32)
