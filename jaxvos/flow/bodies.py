"""Whether what is seen in a region moves as one body or as two."""

import cv2
import numpy as np

LEAST = 0.08
"""Share of the region that either part has: fewer pixels fit any motion."""
WHOLE = 0.8
"""Share of a part that its largest piece has: noise comes in many pieces."""
SHORT = 0.8
"""Longest border between the parts, in sizes (square root of the area) of the smaller one."""
CLEAR = 2.5
"""How many times their misfit the motions differ by at the border."""


def two_bodies(flow: np.ndarray, inside: np.ndarray) -> np.ndarray | None:
    """[H, W] uint8, 1 and 2 on the parts of a region that clearly move as two bodies; else None.

    Two affine motions are fitted in turn with the part that each holds for. They are two bodies if
    each part is mostly in one piece, the border between them is short (limbs meet in a joint, too,
    but there both move alike), and there the motions differ by more than a pixel and by far more
    than they miss the flow. What is unclear is one body.

    Args:
        flow: [H, W, 2] in pixels.
        inside: [H, W] bool, the region.
    """
    y, x = np.nonzero(inside)
    moves = flow[y, x].astype(np.float64)
    places = np.stack([x, y, np.full(len(x), max(inside.shape))], axis=1) / max(inside.shape)
    away = moves - np.median(moves, axis=0)
    first = away @ np.linalg.svd(away - away.mean(axis=0), full_matrices=False)[2][0] > 0
    width = int(np.sqrt(len(x)) / 3) | 1
    for _ in range(8):
        if not LEAST < first.mean() < 1 - LEAST:
            return None
        motions = [np.linalg.lstsq(places[s], moves[s], rcond=None)[0] for s in (first, ~first)]
        errors = np.stack([((moves - places @ motion) ** 2).sum(axis=1) for motion in motions])
        better = np.zeros(inside.shape, np.float32)
        better[y, x] = errors[1] - errors[0]
        first = cv2.blur(better, (width, width))[y, x] > 0
    parts = np.zeros(inside.shape, np.uint8)
    parts[y, x] = np.where(first, 1, 2)
    masks = [np.uint8(parts == k) for k in (1, 2)]
    border = np.argwhere(cv2.dilate(masks[0], np.ones((3, 3))) & masks[1])
    if not 0 < len(border) < SHORT * np.sqrt(min(mask.sum() for mask in masks)):
        return None
    for mask in masks:
        pieces = cv2.connectedComponentsWithStats(mask)[2][1:, 4]
        if pieces.max() < WHOLE * pieces.sum():
            return None
    at = np.column_stack([border[:, ::-1] / max(inside.shape), np.ones(len(border))])
    difference = np.median(np.linalg.norm(at @ (motions[0] - motions[1]), axis=1))
    return parts if difference > max(1, CLEAR * np.sqrt(errors.min(axis=0).mean())) else None
