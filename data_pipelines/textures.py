"""Made-up textures: a field of numbers [h, w] drawn in the colours of a palette."""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

Shape = tuple[int, int]

FAINT = (0.04, 0.3)
"""What the contrast of a plain palette is multiplied by."""


class Looks(NamedTuple):
    """The range of colours that palettes are drawn from, and how often they are nearly one."""

    hue: tuple[float, float] = (0.0, 360.0)  # degrees; may go below 0
    saturation: tuple[float, float] = (0.05, 0.8)
    value: tuple[float, float] = (0.1, 0.95)
    plain: float = 0.0  # how many are nearly of one tone, as road, sand and sky are


def palette(rng: np.random.Generator, looks: Looks) -> np.ndarray:
    """256 colours [256, 3] uint8 RGB that run through two to four random ones within `looks`."""
    count = int(rng.integers(2, 5))
    hue = rng.uniform(*looks.hue, count)
    # Neighbouring colours of one thing are mostly of one hue.
    hue = hue[0] + (hue - hue[0]) * rng.choice([0.15, 1.0], p=[0.6, 0.4])
    saturation, value = rng.uniform(*looks.saturation, count), rng.uniform(*looks.value, count)
    value[:2] = _apart(value[:2], looks.value)
    colors = cv2.cvtColor(
        np.stack([hue % 360, saturation, value], axis=-1)[None].astype(np.float32),
        cv2.COLOR_HSV2RGB,
    )[0]
    stops = np.linspace(0, 255, count)
    ramp = [np.interp(np.arange(256), stops, colors[:, channel]) for channel in range(3)]
    ramp = np.stack(ramp, axis=-1)
    if looks.plain and rng.random() < looks.plain:
        ramp = ramp.mean(axis=0) + (ramp - ramp.mean(axis=0)) * rng.uniform(*FAINT)
    return np.rint(ramp * 255).astype(np.uint8)


def texture(rng: np.random.Generator, shape: Shape, colors: np.ndarray) -> np.ndarray:
    """A picture [h, w, 3] uint8 of a random kind in the `colors` [256, 3], with some fine grain."""
    field = _KINDS[rng.integers(len(_KINDS))](rng, shape)
    grain = octaves(rng, shape, cell=4, falloff=1.0)
    field += rng.uniform(0.05, 0.3) * (grain - 0.5)
    return colors[np.clip(field * 255, 0, 255).astype(np.uint8)]


def octaves(
    rng: np.random.Generator, shape: Shape, *, cell: float, falloff: float, stretch: float = 1.0
) -> np.ndarray:
    """Smooth noise [h, w] float32 in 0..1: the sum of random grids, from `cell` pixels a node to 2.

    Each grid is twice as fine and `falloff` times as strong as the one before it, and `stretch`
    times as coarse along x as along y.
    """
    total, strength = np.zeros(shape, np.float32), 1.0
    while cell >= 2:
        nodes = math.ceil(shape[0] / cell) + 1, math.ceil(shape[1] / (cell * stretch)) + 1
        grid = rng.random(nodes, np.float32)
        total += strength * cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)
        cell, strength = cell / 2, strength * falloff
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def clouds(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Noise from soft to rough, at times drawn out to one side."""
    return octaves(
        rng,
        shape,
        cell=_cell(rng, shape, 0.1, 0.6),
        falloff=rng.uniform(0.35, 0.8),
        stretch=math.exp(rng.uniform(-1.0, 1.0)),
    )


def stripes(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Bent stripes in any direction."""
    y, x = _grid(shape)
    angle, wave = rng.uniform(0, math.pi), _cell(rng, shape, 0.06, 0.3)
    bend = octaves(rng, shape, cell=_cell(rng, shape, 0.3, 0.8), falloff=0.4)
    phase = (x * math.cos(angle) + y * math.sin(angle)) / wave + rng.uniform(0, 2.5) * bend
    return _sharpened(0.5 + 0.5 * np.sin(2 * math.pi * phase), rng.uniform(1, 4))


def cells(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Cells of one tone each around random points: stones, scales, leaves."""
    distance, nearest = _nearest(rng, shape, _cell(rng, shape, 0.06, 0.25))
    tones = rng.random(int(nearest.max()) + 1, np.float32)
    dark = rng.uniform(0, 0.6) / max(float(distance.max()), 1.0)
    return tones[nearest] * 0.8 + 0.2 - dark * distance


def spots(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Round spots around random points."""
    spacing = _cell(rng, shape, 0.08, 0.3)
    distance, _ = _nearest(rng, shape, spacing)
    edge, softness = spacing * rng.uniform(0.2, 0.4), rng.uniform(1.5, 5)
    return 0.5 - 0.5 * np.tanh((distance - edge) / softness)


def patches(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Two tones in ragged patches, as on a cow."""
    field = octaves(rng, shape, cell=_cell(rng, shape, 0.2, 0.5), falloff=rng.uniform(0.3, 0.6))
    return _sharpened(field, rng.uniform(3, 12))


def bricks(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Rows of rectangles, each of its own tone, with joints."""
    y, x = _grid(shape)
    height = max(_cell(rng, shape, 0.05, 0.2), 4)
    width, shift = height * rng.uniform(1, 3), rng.choice([0.0, 0.5])
    row = np.floor(y / height)
    along = x / width + shift * (row % 2)
    row, column = (row + 0 * x).astype(np.intp), np.floor(along).astype(np.intp)
    tones = rng.random((int(row.max()) + 1, int(column.max()) + 1), np.float32)
    joint = (along % 1 < 1.5 / width) | (y % height < 1.5)
    return np.where(joint, np.float32(0), tones[row, column] * 0.7 + 0.3)


_KINDS: tuple[Callable[[np.random.Generator, Shape], np.ndarray], ...] = (
    clouds,
    clouds,
    stripes,
    cells,
    spots,
    patches,
    bricks,
)


def _grid(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return y.astype(np.float32), x.astype(np.float32)


def _cell(rng: np.random.Generator, shape: Shape, low: float, high: float) -> float:
    """A length in pixels, log-uniform between `low` and `high` of the shorter side."""
    return max(min(shape) * math.exp(rng.uniform(math.log(low), math.log(high))), 3.0)


def _nearest(
    rng: np.random.Generator, shape: Shape, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """The distance to the nearest random point, and which one it is: float32 and int32 [h, w]."""
    points = np.ones(shape, np.uint8)
    count = max(int(shape[0] * shape[1] / spacing**2), 2)
    points[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
    return cv2.distanceTransformWithLabels(
        points, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )


def _sharpened(field: np.ndarray, contrast: float) -> np.ndarray:
    return np.clip((field - 0.5) * contrast + 0.5, 0, 1)


def _apart(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Two values, at least a third of `span` apart so that no texture is one flat tone."""
    low, high = np.sort(values)
    missing = max((span[1] - span[0]) / 3 - (high - low), 0) / 2
    low, high = max(low - missing, span[0]), min(high + missing, span[1])
    return np.array([low, high]) if values[0] <= values[1] else np.array([high, low])
