"""Water in made-up video, and bodies that float on it: birds and boats, with what it mirrors.

Water is a plane with ripples and glints that run over it, each its own way, so that its motion is
nobody's. What floats is cut off at the waterline; below it hangs its picture upside down, faint and
rippling, which belongs to the water.
"""

import numpy as np

from data_pipelines.camera import Camera
from data_pipelines.rendering import Layer, Pose, scaling, translation
from data_pipelines.sprites import (
    Body,
    Piece,
    Skin,
    at,
    blob,
    oscillation,
    oval,
    piece,
    ripples,
)
from data_pipelines.textures import octaves, texture

WATERLINE = 0.1
"""How far below a body's middle the water begins, in its lengths."""


def water(
    rng: np.random.Generator, size: tuple[int, int], camera: Camera, colors: np.ndarray
) -> list[Layer]:
    """Water of `colors` [256, 3] up to a horizon, or all over the frame, and one or two of glints.

    Args:
        rng: What it is drawn from.
        size: (height, width) of the frames, pixels.
        camera: What sees it.
        colors: [256, 3] uint8.
    """
    height, width = size
    top = height * rng.uniform(-0.5, 0.45)
    shape = int(height * 1.2 - top), int(width * 1.8)
    leaning = np.eye(3)
    leaning[2, 1] = -rng.uniform(0.05, 0.25) / height
    plane = translation((width - 1) / 2, top) @ leaning @ translation(-shape[1] / 2, 0)
    depth = rng.uniform(0.9, 1.3)

    def lying(picture: np.ndarray, drift: np.ndarray) -> Layer:
        wave = ripples(rng, height * rng.uniform(0.004, 0.015), height * rng.uniform(0.08, 0.4))

        def pose(t: float) -> Pose:
            moved = translation(*(drift * t - camera.shift(t) / depth))
            return Pose(camera.lens(t) @ plane, moved, wave(t))

        return Layer(picture, pose)

    opaque = np.full((*shape, 1), 255, np.uint8)
    whole = np.concatenate([_surface(rng, shape, height, colors), opaque], axis=-1)
    layers = [lying(whole, np.zeros(2))]
    for _ in range(rng.integers(1, 3)):
        picture = _glints(rng, shape, height, colors)
        layers.append(lying(picture, rng.uniform(-0.008, 0.008, 2) * height))
    return layers


def _surface(
    rng: np.random.Generator, shape: tuple[int, int], height: int, colors: np.ndarray
) -> np.ndarray:
    """What water looks like [h, w, 3] uint8: drawn out to the sides, or of any kind."""
    if rng.random() < 0.4:
        return texture(rng, shape, colors)
    cell, stretch = height * rng.uniform(0.04, 0.25), rng.uniform(2, 6)
    field = octaves(rng, shape, cell=cell, falloff=rng.uniform(0.5, 0.9), stretch=stretch)
    return colors[np.rint(255 * field).astype(np.uint8)]


def _glints(
    rng: np.random.Generator, shape: tuple[int, int], height: int, colors: np.ndarray
) -> np.ndarray:
    """Flat streaks [h, w, 4] uint8 of the sky's light, too thin to be what is seen."""
    cell = height * rng.uniform(0.03, 0.12)
    field = octaves(rng, shape, cell=cell, falloff=0.6, stretch=rng.uniform(2, 5))
    alpha = np.rint(rng.uniform(60, 120) * np.clip(3 * (field - 0.5), 0, 1)).astype(np.uint8)
    light = colors[rng.integers(256)] / 2 + 127 * rng.uniform(0.2, 1)
    return np.dstack([np.rint(light * (alpha[..., None] / 255)).astype(np.uint8), alpha])


def bird(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """A floating bird about `size` pixels long: a hull, a wing upon it, a nodding neck, a head."""
    deep = size * rng.uniform(0.3, 0.5)
    hull = afloat(oval(size * 0.8, deep, power=rng.uniform(1.8, 2.6)), size)
    wing = afloat(oval(size * rng.uniform(0.3, 0.5), deep * 0.6) - [size * 0.12, deep * 0.1], size)
    nod = oscillation(rng, rng.uniform(0.02, 0.2), (14, 50), mean=rng.uniform(-0.3, 0.7))
    length, girth = size * rng.uniform(0.12, 0.5), size * rng.uniform(0.07, 0.14)
    neck = oval(girth, length + girth, power=3.0) - [0, length / 2]
    skull = oval(size * rng.uniform(0.15, 0.28), size * 0.12) + np.array([size * 0.06, -length])
    root = at(size * rng.uniform(0.22, 0.34), -deep * 0.2, nod)
    bobs = at(0, 0, oscillation(rng, 0.04 * rng.random(), (12, 40)))
    return [
        piece(rng, coat, neck, root),
        piece(rng, trim, skull, root),
        piece(rng, coat, hull, bobs),
        piece(rng, trim, wing, bobs),
    ]


def boat(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """A boat `size` pixels long: a hull, mostly a cabin, a sail or somebody in it."""
    high, bow = -size * rng.uniform(0.0, 0.12), size * rng.uniform(0.3, 0.45)
    low = WATERLINE * size
    hull = np.array(
        [[-0.45 * size, high], [0.5 * size, high - 0.03 * size], [bow, low], [-bow, low]]
    )
    rolls = at(0, 0, oscillation(rng, 0.05 * rng.random(), (12, 40)))
    aboard = []
    kind = rng.random()
    if kind < 0.35:
        cabin = oval(size * rng.uniform(0.25, 0.6), size * 0.24, power=5.0)
        aboard = [cabin + np.array([size * rng.uniform(-0.2, 0.1), high - size * 0.06])]
    elif kind < 0.6:
        mast = -size * rng.uniform(0.5, 1.1)
        aboard = [np.array([[0, mast], [size * rng.uniform(0.2, 0.4), high], [-size * 0.1, high]])]
    elif kind < 0.9:
        x = size * rng.uniform(-0.25, 0.25)
        torso = oval(size * 0.16, size * 0.34) + np.array([x, high - size * 0.1])
        aboard = [torso, oval(size * 0.11, size * 0.13) + np.array([x, high - size * 0.32])]
    parts = [piece(rng, trim, outline, rolls) for outline in aboard]
    return [*parts, piece(rng, coat, hull, rolls)]


def buoy(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """Something smooth `size` pixels long that looks out of the water, perhaps with a head."""
    outline = blob(rng, size / 2, rng.uniform(0.1, 0.5)) * [1, rng.uniform(0.4, 0.9)]
    bobs = at(0, 0, oscillation(rng, 0.05 * rng.random(), (12, 40)))
    pieces = [piece(rng, coat, afloat(outline, size), bobs)]
    if rng.random() < 0.5:
        head = oval(size * 0.3, size * 0.3) + np.array([size * rng.uniform(-0.4, 0.4), -size * 0.2])
        pieces.append(piece(rng, trim, head, bobs))
    return pieces


FLOATING: tuple[Body, ...] = (bird, bird, boat, buoy)


def afloat(outline: np.ndarray, size: float) -> np.ndarray:
    """An outline [N, 2] of a body `size` pixels long, cut off at its waterline."""
    return np.minimum(outline, [np.inf, WATERLINE * size])


def reflection(rng: np.random.Generator, pieces: list[Piece], size: float) -> list[Piece]:
    """What the water mirrors of a body `size` pixels long: too faint to be what is seen."""
    line, flat = WATERLINE * size, rng.uniform(0.5, 1.0)
    down = translation(0, line) @ scaling(1, -flat) @ translation(0, -line)
    share = rng.uniform(0.1, 0.45)

    def upside_down(part: Piece) -> Piece:
        faint = np.rint(part.picture * share).astype(np.uint8)
        return Piece(faint, lambda t: down @ part.place(t))

    return [upside_down(part) for part in pieces]
