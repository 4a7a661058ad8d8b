"""Clips made of one still picture and its mask: the object and the ground each move, flow is exact.

After Wang, Shen, Shao (TIP 2018), who train on such pairs because real video with masks is scarce:
the motion is smooth within the object and within the background and breaks off between them. Every
region of the picture gets a vector, drawn around one motion of the object and another one of the
ground, and the field of vectors is smoothed; what is seen at p has come from p minus the vector.

Object and ground are smoothed and moved each by itself, the object in front. So it covers ground on
one side and uncovers it on the other, where the ground beyond the mask's edge is mirrored, and the
mask moves as a whole. (One field for both, smoothed across the edge, would squeeze the object where
it moves ahead and double it where it leaves, and nobody could say where a pixel went.)
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

OBJECT_MOTION, GROUND_MOTION = 0.03, 0.015
"""Standard deviations of the two motions, each of x and y, in shorter sides of the picture."""
REGIONS = 12
"""Regions along the picture's shorter side, unless they would be smaller than 8 pixels."""
WOBBLE = 0.3 / 8
"""Standard deviation of a region's own motion, in sides of a region."""
TURN = math.pi / 4
"""How far the regions' own motions swing in a step: to and fro in 8 frames, all of it at first."""
CLOSE, STEPS = 1e-4, 60
"""Pixels within which the way of a point is known, after so many steps at most: about 5 as a rule.
"""


class MovingStill(NamedTuple):
    """A clip of T frames made of a still picture, which is its first frame.

    Attributes:
        frames: [T, H, W, 3] uint8 RGB.
        masks: [T, H, W] uint8: 1 is the object, 0 the ground.
        flow: [T - 1, H, W, 2] float32: where what is seen at t has moved at t + 1: (x, y) pixels.
    """

    frames: np.ndarray
    masks: np.ndarray
    flow: np.ndarray


class Layer(NamedTuple):
    """A picture that moves: what is seen at p at time t is at p - displacement(p, t) of it.

    Attributes:
        picture: [H, W, 3] float32; the object's is black around it, so that its edge takes nothing
            of the old ground along.
        velocity: [2] pixels a frame, (x, y).
        wobble: [H, W, 2] float32: the regions' own motions, smoothed.
    """

    picture: np.ndarray
    velocity: np.ndarray
    wobble: np.ndarray


def moving_still(
    picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator, *, frames: int = 2
) -> MovingStill:
    """A clip of `frames` frames that begins with the picture; motions are drawn by `rng` alone.

    Args:
        picture: [H, W, 3] uint8 RGB.
        mask: [H, W]; the object is where it is not 0. It may be everywhere or nowhere.
        rng: Where chance comes from.
        frames: T, at least 1; it changes no draw, so a shorter clip begins a longer one.
    """
    _check(picture, mask, frames)
    inside = mask != 0
    if frames == 1:
        no_flow = np.empty((0, *mask.shape, 2), np.float32)
        return MovingStill(picture[None].copy(), inside[None].astype(np.uint8), no_flow)
    whole = picture.astype(np.float32)
    front = _layer(whole * inside[..., None], OBJECT_MOTION, rng)
    ground = _layer(uncovered(whole, inside), GROUND_MOTION, rng)
    clip = MovingStill(
        np.empty((frames, *picture.shape), np.uint8),
        np.empty((frames, *mask.shape), np.uint8),
        np.empty((frames - 1, *mask.shape, 2), np.float32),
    )
    clip.frames[0], clip.masks[0] = picture, inside
    for t in range(1, frames):
        for layer, seen in ((front, clip.masks[t - 1] != 0), (ground, clip.masks[t - 1] == 0)):
            clip.flow[t - 1][seen] = onward(layer, t - 1, seen)
        cover = pulled(inside.astype(np.float32), displacement(front, t))
        clip.frames[t] = np.rint(_seen(front, ground, cover, t))
        clip.masks[t] = cover > 0.5
    return clip


def blocks(size: tuple[int, int], side: int) -> np.ndarray:
    """The number of each pixel's region, [H, W]: squares of `side` pixels, row by row."""
    y, x = np.ogrid[: size[0], : size[1]]
    return y // side * -(-size[1] // side) + x // side


def smoothed(field: np.ndarray, sigma: float) -> np.ndarray:
    """A field [H, W, C] blurred by a Gaussian, cut off at 4 sigma, the edge going on beyond."""
    return ndimage.gaussian_filter(field, (sigma, sigma, 0), mode="nearest", truncate=4.0)


def pulled(values: np.ndarray, field: np.ndarray) -> np.ndarray:
    """`values` [H, W] or [H, W, C] at p - field(p) for every pixel p, bilinear; beyond the edge
    the edge's. With a field [H, W, 2] of pixels (x, y), what is seen moves along it."""
    return sampled(values, grid(field.shape[:2]) - field)


def sampled(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """`values` [H, W] or [H, W, C] at points [..., 2] = (x, y), bilinear: [...] or [..., C].

    Not by OpenCV's remap, which knows the places only to a 32nd of a pixel.
    """
    at = points[..., 1], points[..., 0]
    if values.ndim == 2:
        return ndimage.map_coordinates(values, at, order=1, mode="nearest")
    channels = np.moveaxis(values, -1, 0)
    return np.stack([sampled(np.ascontiguousarray(c), points) for c in channels], axis=-1)


def grid(size: tuple[int, int]) -> np.ndarray:
    """[H, W, 2] float64: each pixel's own (x, y)."""
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), axis=-1).astype(float)


def uncovered(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The picture [H, W, C] with its surroundings mirrored into the hole [H, W], at its edge.

    Where the mirrored place is in the hole too, or beyond the picture, the nearest one outside the
    hole stands in. A hole that is the whole picture stays as it is.
    """
    if hole.all() or not hole.any():
        return picture
    nearest = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    y, x = np.nonzero(hole)
    edge_y, edge_x = nearest[:, y, x]
    from_y, from_x = 2 * edge_y - y, 2 * edge_x - x
    height, width = hole.shape
    bad = (from_y < 0) | (from_y >= height) | (from_x < 0) | (from_x >= width)
    bad |= hole[from_y.clip(0, height - 1), from_x.clip(0, width - 1)]
    filled = picture.copy()
    filled[y, x] = picture[np.where(bad, edge_y, from_y), np.where(bad, edge_x, from_x)]
    return filled


def displacement(layer: Layer, t: int) -> np.ndarray:
    """How far what is seen at each pixel at time t has come: [H, W, 2] pixels (x, y)."""
    return t * layer.velocity + _swing(t) * layer.wobble


def onward(layer: Layer, t: int, seen: np.ndarray) -> np.ndarray:
    """How far what the layer shows at the pixels `seen` [H, W] at time t moves until t + 1: [N, 2].

    It will be at that point which it has come to from the same place of the picture. The search
    for it closes in because neighbours move nearly alike.
    """
    points = grid(seen.shape)[seen]
    begin = points - displacement(layer, t)[seen]
    there = points + layer.velocity
    for _ in range(STEPS):
        come = (t + 1) * layer.velocity + _swing(t + 1) * sampled(layer.wobble, there)
        there, last = begin + come, there
        if np.abs(there - last).max(initial=0) < CLOSE:
            return there - points
    raise ValueError(f"After {STEPS} steps nobody knows where a point goes: too uneven a motion.")


def _swing(t: int) -> float:
    return math.sin(TURN * t) / math.sin(TURN)


def _layer(picture: np.ndarray, spread: float, rng: np.random.Generator) -> Layer:
    """A layer with motions of its own; `spread` is in shorter sides of the picture."""
    size = picture.shape[:2]
    side = max(8, round(min(size) / REGIONS))
    regions = blocks(size, side)
    velocity = rng.normal(0, spread * min(size), 2)
    # Without outliers neighbours differ so little that `onward` always comes to an end.
    vectors = WOBBLE * side * rng.normal(size=(int(regions.max()) + 1, 2)).clip(-2, 2)
    return Layer(picture, velocity, smoothed(vectors.astype(np.float32)[regions], side / 4))


def _seen(front: Layer, ground: Layer, cover: np.ndarray, t: int) -> np.ndarray:
    """The picture [H, W, 3] at time t; `cover` [H, W] is how much of a pixel is the object's."""
    seen, points = np.zeros((*cover.shape, 3), np.float32), grid(cover.shape)
    some, open_ = cover > 0, cover < 1
    seen[some] = sampled(front.picture, (points - displacement(front, t))[some])
    behind = sampled(ground.picture, (points - displacement(ground, t))[open_])
    seen[open_] += (1 - cover[open_])[:, None] * behind
    return seen


def _check(picture: np.ndarray, mask: np.ndarray, frames: int) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"A still is [H, W, 3] uint8, not {picture.shape} {picture.dtype}.")
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"A mask {mask.shape} does not fit a picture {picture.shape}.")
    if frames < 1:
        raise ValueError(f"A clip of a still has at least one frame, not {frames}.")
