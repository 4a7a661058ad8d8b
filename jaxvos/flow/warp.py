"""Moves pictures and maps along flow, on the host."""

import cv2
import numpy as np

CLOSE = (0.01, 0.5)
"""Sundaram, Brox, Keutzer, ECCV 2010: forward and backward flow agree within a hundredth of their
squared lengths and half a squared pixel."""


def warp(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`values` at p + flow(p) for every pixel p, bilinear, float32; beyond the edge the edge's.

    With the flow from a frame to another one, the other's values come to lie where the frame's are.

    Args:
        values: [H, W] or [H, W, C].
        flow: [H, W, 2] in pixels (x, y).
    """
    if values.shape[:2] != flow.shape[:2] or flow.shape[2:] != (2,):
        raise ValueError(
            f"Values are {values.shape}, flow {flow.shape}; not [H, W, ...] and [H, W, 2]."
        )
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    moved = cv2.remap(
        np.asarray(values, np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved.reshape(values.shape)


def consistent(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels whose way forth and back ends where it began; others are occluded.

    Args:
        forward: [H, W, 2] flow from this frame to another.
        backward: [H, W, 2] flow from the other one to this.
    """
    back = warp(backward, forward)
    gap = ((forward + back) ** 2).sum(axis=-1)
    lengths = (forward**2).sum(axis=-1) + (back**2).sum(axis=-1)
    return gap <= CLOSE[0] * lengths + CLOSE[1]
