"""Moving surfaces to frames: pictures drawn over one another, with labels and exact flow.

Every surface is a flat picture that a closed-form map places in the frame at any (also fractional)
time, and every map has a closed-form inverse. So the flow of what is seen needs no estimate: a
pixel of frame t goes back to its surface and from there into frame t + 1.

Points are pairs of arrays (x, y) in pixels; whole numbers are pixel centres, as in OpenCV.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

OPAQUE = 128
"""A surface is what is seen where its alpha (0..255) is at least this."""

Points = tuple[np.ndarray, np.ndarray]


class Ripple(NamedTuple):
    """A travelling wave made of two shears, first of y, then of x. Pixels and radians.

    Each moves one coordinate by a sine of the other one only: that is inverted without iterating.
    """

    lift: float  # height of the wave that moves y as it runs along x
    growth: float  # how much higher it gets per pixel of x: the tail of a fish
    number: float  # radians per pixel
    phase: float
    sway: float  # the same for x, running along y
    sway_number: float
    sway_phase: float


class Pose(NamedTuple):
    """Where a surface is at one time: its pixels -> `inner` -> ripple -> `outer` -> the frame."""

    outer: np.ndarray  # [3, 3]
    inner: np.ndarray  # [3, 3]
    ripple: Ripple | None = None


class Layer(NamedTuple):
    """One surface of a scene."""

    picture: np.ndarray  # [h, w, 4] uint8: RGB already multiplied by alpha, alpha
    pose: Callable[[float], Pose]  # time in frames -> its pose
    label: int = 0  # what the label maps say where it is seen
    endless: bool = False  # goes on beyond its picture, mirrored


def translation(x: float, y: float) -> np.ndarray:
    """The [3, 3] matrix that moves points by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def rotation(angle: float) -> np.ndarray:
    """The [3, 3] matrix that turns points about the origin by `angle` radians, from x towards y."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float64)


def scaling(x: float, y: float | None = None) -> np.ndarray:
    """The [3, 3] matrix that scales points about the origin by x and y (or x in both)."""
    return np.diag([x, x if y is None else y, 1.0])


def project(matrix: np.ndarray, points: Points) -> Points:
    """`points` moved by a homography [3, 3]."""
    x, y = points
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()  # plain numbers leave float32 points float32
    if g == 0 and h == 0 and i == 1:
        return a * x + b * y + c, d * x + e * y + f
    w = 1 / (g * x + h * y + i)
    return (a * x + b * y + c) * w, (d * x + e * y + f) * w


def to_frame(pose: Pose, points: Points) -> Points:
    """Where in the frame the surface's `points` are."""
    if pose.ripple is None:
        return project(pose.outer @ pose.inner, points)
    r = pose.ripple
    x, y = project(pose.inner, points)
    y = y + (r.lift + r.growth * x) * np.sin(r.number * x + r.phase)
    x = x + r.sway * np.sin(r.sway_number * y + r.sway_phase)
    return project(pose.outer, (x, y))


def to_surface(pose: Pose, points: Points) -> Points:
    """Which points of the surface are at the frame's `points`: the inverse of `to_frame`."""
    if pose.ripple is None:
        return project(np.linalg.inv(pose.outer @ pose.inner), points)
    r = pose.ripple
    x, y = project(np.linalg.inv(pose.outer), points)
    x = x - r.sway * np.sin(r.sway_number * y + r.sway_phase)
    y = y - (r.lift + r.growth * x) * np.sin(r.number * x + r.phase)
    return project(np.linalg.inv(pose.inner), (x, y))


def render(
    layers: Sequence[Layer], frames: int, size: tuple[int, int], *, shutter: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first `frames` frames of a scene: pictures, labels and flow.

    Pictures are [T, H, W, 3] float32 in 0..255, labels [T, H, W] uint8, flow [T - 1, H, W, 2]
    float32, (x, y) in pixels from t to t + 1. Labels and flow are those of the surface seen at the
    middle of the exposure, which lasts `shutter` frames. Layers are drawn in order, later ones in
    front; the first one must be endless.
    """
    if not layers or not layers[0].endless:
        raise ValueError("The first layer of a scene must be endless: it has nothing behind it.")
    pictures = np.empty((frames, *size, 3), np.float32)
    labels = np.empty((frames, *size), np.uint8)
    flow = np.empty((max(frames - 1, 0), *size, 2), np.float32)
    names = np.array([layer.label for layer in layers], np.uint8)
    for t in range(frames):
        pictures[t], seen = _expose(layers, t, size, shutter)
        labels[t] = names[seen]
        if t + 1 < frames:
            flow[t] = _flow(layers, seen, t)
    return pictures, labels, flow


def _expose(
    layers: Sequence[Layer], t: float, size: tuple[int, int], shutter: float
) -> tuple[np.ndarray, np.ndarray]:
    """One picture [H, W, 3] float32, and the number of the layer seen at each pixel: [H, W]."""
    picture = np.zeros((*size, 3), np.float32)
    seen = np.zeros(size, np.uint8)
    for index, layer in enumerate(layers):
        times = _exposures(layer, t, size, shutter)
        poses = [layer.pose(time) for time in times]
        box = _box(layer, poses, size)
        if box is None:
            continue
        drawn = [_warp(layer, pose, box) for pose in poses]
        alpha = drawn[len(drawn) // 2][..., 3]
        _cover(picture[box], drawn[0] if len(drawn) == 1 else np.mean(drawn, 0, np.float32))
        seen[box][alpha >= OPAQUE] = index
    return picture, seen


def _cover(under: np.ndarray, over: np.ndarray) -> None:
    """Draws `over` [h, w, 4], multiplied by its alpha, over `under` [h, w, 3] float32, in place."""
    kept = (255 - cv2.extractChannel(over, 3)) * np.float32(1 / 255)
    under *= cv2.cvtColor(kept, cv2.COLOR_GRAY2RGB)
    under += cv2.cvtColor(over, cv2.COLOR_RGBA2RGB)


def _exposures(layer: Layer, t: float, size: tuple[int, int], shutter: float) -> np.ndarray:
    """An odd number of times within the exposure, so many that about 3 pixels lie between two."""
    if shutter == 0:
        return np.array([t])
    height, width = size if layer.endless else layer.picture.shape[:2]
    corners = np.array([0.0, width, 0, width]), np.array([0.0, 0, height, height])
    if layer.endless:
        corners = to_surface(layer.pose(t), corners)
    first, last = (to_frame(layer.pose(t + s * shutter), corners) for s in (-0.5, 0.5))
    way = max(np.hypot(last[0] - first[0], last[1] - first[1]))
    half = min(math.ceil(way / 6), 3) if way > 1 else 0
    return t + shutter * np.linspace(-0.5, 0.5, 2 * half + 3)[1:-1]


def _box(layer: Layer, poses: Sequence[Pose], size: tuple[int, int]) -> tuple[slice, slice] | None:
    """The rows and columns of the frame that a layer touches in any of `poses`; None: none."""
    height, width = size
    if layer.endless:
        return slice(0, height), slice(0, width)
    # The maps are continuous and invertible: the edge of the image is the image of the edge.
    x, y = np.concatenate([to_frame(pose, _edge(*layer.picture.shape[:2])) for pose in poses], -1)
    margin = 1 + max(_bulge(pose.ripple, layer.picture.shape) for pose in poses)
    left, right = max(math.floor(x.min() - margin), 0), min(math.ceil(x.max() + margin) + 1, width)
    top, bottom = max(math.floor(y.min() - margin), 0), min(math.ceil(y.max() + margin) + 1, height)
    return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def _bulge(ripple: Ripple | None, shape: tuple[int, ...]) -> float:
    """How many pixels a ripple may lead beyond the straight lines between neighbours in `_edge`."""
    if ripple is None:
        return 0.0
    return (ripple.lift + abs(ripple.growth) * max(shape) + ripple.sway) / 4


def _edge(height: int, width: int) -> Points:
    """Points along the edge of a picture, a pixel outside of it."""
    steps = np.linspace(-1, 1, 9)
    x = np.concatenate([steps, steps, np.full(9, -1.0), np.ones(9)])
    y = np.concatenate([np.full(9, -1.0), np.ones(9), steps, steps])
    return (width - 1) / 2 + x * (width + 1) / 2, (height - 1) / 2 + y * (height + 1) / 2


def _warp(layer: Layer, pose: Pose, box: tuple[slice, slice]) -> np.ndarray:
    """The layer as it is seen in `box`: [h, w, 4] uint8."""
    rows, columns = box
    size = columns.stop - columns.start, rows.stop - rows.start
    border = cv2.BORDER_REFLECT_101 if layer.endless else cv2.BORDER_CONSTANT
    if pose.ripple is None:
        matrix = translation(-columns.start, -rows.start) @ pose.outer @ pose.inner
        return cv2.warpPerspective(
            layer.picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border
        )
    x = np.arange(columns.start, columns.stop, dtype=np.float32)
    y = np.arange(rows.start, rows.stop, dtype=np.float32)
    maps = to_surface(pose, tuple(np.meshgrid(x, y)))
    maps = (m.astype(np.float32, copy=False) for m in maps)
    return cv2.remap(layer.picture, *maps, cv2.INTER_LINEAR, borderMode=border)


def _flow(layers: Sequence[Layer], seen: np.ndarray, t: float) -> np.ndarray:
    """The motion [H, W, 2] float32 from frame t to t + 1 of the surface `seen` at each pixel."""
    flow = np.empty((seen.size, 2), np.float32)
    order = np.argsort(seen, axis=None, kind="stable")  # the pixels of layer 0, of layer 1, ...
    ends = np.cumsum(np.bincount(seen.ravel(), minlength=len(layers)))
    for layer, pixels in zip(layers, np.split(order, ends[:-1]), strict=True):
        if pixels.size:
            y, x = (n.astype(np.float64) for n in np.divmod(pixels, seen.shape[1]))
            moved = _moved(layer.pose(t), layer.pose(t + 1), (x, y))
            flow[pixels, 0] = moved[0] - x
            flow[pixels, 1] = moved[1] - y
    return flow.reshape(*seen.shape, 2)


def _moved(now: Pose, then: Pose, points: Points) -> Points:
    """Where the surface points that are at `points` of the frame `now` are `then`."""
    if now.ripple is None and then.ripple is None:
        matrix = then.outer @ then.inner @ np.linalg.inv(now.outer @ now.inner)
        return project(matrix / matrix[2, 2], points)
    return to_frame(then, to_surface(now, points))
