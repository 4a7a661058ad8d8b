"""A field of flow for each frame of a video, the last one included, and at another size."""

from collections.abc import Iterator

import numpy as np

from jaxvos.typing import Video


def flow_of_each_frame(video: Video, system: str) -> Iterator[np.ndarray]:
    """T fields [H, W, 2]; the last frame's is the one before's, a single frame's is zero.

    Args:
        video: With T - 1 fields of flow.
        system: Who needs them, for the message if they are not there.
    """
    frames = len(video.frames)
    if video.flow is None:
        raise ValueError(
            f"{video.name} has no optical flow, which {system} looks at. It is computed with "
            "--flow dis, or read from a folder, --flow FOLDER; in Python it is Video's `flow`."
        )
    if len(video.flow) < frames - 1:
        raise ValueError(
            f"{video.name} has {frames} frames and {len(video.flow)} fields of flow: {system} "
            f"needs one from each frame to the next, {frames - 1}."
        )
    field = None
    for t in range(frames - 1):
        field = video.flow[t]
        yield field
    if field is None and frames:
        field = np.zeros((*video.frames[0].shape[:2], 2), np.float32)
    if frames:
        yield field


def places_of(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow [H, W, 2] at the places of a grid (h, w), nearest; its values stay in its own pixels."""
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, flow.shape[:2], strict=True)
    )
    return np.asarray(flow[rows[:, None], columns], np.float32)
