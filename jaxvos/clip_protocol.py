"""Inference on clips that do not overlap, as the ConvLSTM networks of one house were released.

A video is cut into clips of a fixed length. What the last one lacks is filled by walking back from
the video's end, and a frame that is thereby seen twice keeps its later answer. Saliency maps are
stretched to 0..1, each by itself.
"""

from collections.abc import Callable, Iterator

import cv2
import jax
import numpy as np

from jaxvos.inference import batched, to_size
from jaxvos.typing import Segmenter, Video


def clip_order(frames: int, length: int) -> np.ndarray:
    """[clips, length]: which frame is where; 4 frames in clips of 3 are 0 1 2, 3 2 1.

    In a video shorter than that the walk turns round at the beginning too: 0 1 0 1 0.
    """
    places, turn = np.arange(-(-frames // length) * length), 2 * (frames - 1)
    places = np.minimum(places % turn, turn - places % turn) if turn > 0 else 0 * places
    return places.reshape(-1, length)


def squash(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] uint8 at `size` without regard to its aspect, as OpenCV and Caffe do it.

    Unlike `inference.fit` it does not smooth before it shrinks.
    """
    if frame.shape[:2] == tuple(size):
        return frame
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)


def stretched(scores: np.ndarray) -> np.ndarray:
    """Scores with the least at 0 and the largest at 1; a constant map, which has none, as it is."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else scores


def clip_segmenter(
    saliency: Callable[[np.ndarray], jax.Array],
    *,
    length: int,
    size: tuple[int, int],
    batch: int,
    stretch: bool,
) -> Segmenter:
    """A segmenter out of `saliency`: clips [B, length, H, W, 3] uint8 -> scores [B, length, H, W].

    Args:
        saliency: What is compiled; it sees one shape alone, whatever the video.
        length: Frames of a clip.
        size: (H, W) of its pictures.
        batch: Clips a call.
        stretch: Whether each map is stretched to 0..1.
    """

    def segment(video: Video) -> Iterator[np.ndarray]:
        frames = video.frames
        order = clip_order(len(frames), length)
        last = {t: number for number, clip in enumerate(order.tolist()) for t in clip}
        clips = (np.stack([squash(frames[t], size) for t in clip]) for clip in order.tolist())
        kept: dict[int, np.ndarray] = {}
        due = 0
        for number, maps in enumerate(batched(saliency, clips, batch=batch)):
            kept |= dict(zip(order[number].tolist(), np.asarray(maps), strict=True))
            while due < len(frames) and last[due] <= number:
                scores = to_size(kept.pop(due), frames[due].shape[:2])
                yield stretched(scores) if stretch else scores
                due += 1

    return segment
