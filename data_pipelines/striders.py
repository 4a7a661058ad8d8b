"""Made-up bodies on legs whose feet stand on the ground while the body goes on over them."""

import math

import numpy as np

from data_pipelines.rendering import rotation, scaling, translation
from data_pipelines.sprites import (
    Piece,
    Place,
    Point,
    Skin,
    at,
    oscillation,
    oval,
    piece,
)


def strider(
    rng: np.random.Generator, size: float, coat: Skin, trim: Skin, world: Place
) -> list[Piece]:
    """An upright body or a long one, about `size` pixels high or long, on two or four legs.

    Args:
        rng: What it is drawn from.
        size: Pixels.
        coat: What the body wears.
        trim: What legs, or the head, wear.
        world: Where the body's own coordinates are in the world at any time.
    """
    upright = rng.random() < 0.5
    width = size * rng.uniform(0.06, 0.11)
    period, stance = rng.uniform(9, 30), rng.uniform(0.5, 0.8)

    def leg(hip: Point, ground: float, lag: float) -> list[Piece]:
        cloth = trim if upright else coat
        return _leg(rng, cloth, hip, ground, width, period, stance, lag, world)

    if upright:
        torso = oval(size * rng.uniform(0.17, 0.3), size * 0.44, power=2.6) - [0, size * 0.1]
        body = piece(rng, coat, torso, at(0, 0, oscillation(rng, 0.06, (15, 40))))
        head = piece(rng, trim, oval(size * 0.16, size * 0.2), at(0, -size * 0.39))
        hips, ground = (0.0, size * 0.06), size * 0.48
        return [*leg(hips, ground, 0.0), body, head, *leg(hips, ground, 0.5)]
    deep = size * rng.uniform(0.26, 0.38)
    body = piece(rng, coat, oval(size * 0.7, deep, power=2.7), at(0, 0))
    nod = oscillation(rng, 0.12, (14, 40), mean=rng.uniform(0.4, 1.2))
    neck = oval(deep * 0.5, size * rng.uniform(0.25, 0.45))
    neck -= [0, neck[:, 1].max() * 0.8]
    skull = oval(size * 0.22, size * 0.12) + np.array([size * 0.05, neck[:, 1].min()])
    shoulder = at(size * 0.28, -deep * 0.2, nod)
    head = [piece(rng, coat, neck, shoulder), piece(rng, trim, skull, shoulder)]
    front, back = (size * 0.26, deep * 0.3), (-size * 0.26, deep * 0.3)
    ground = deep * 0.3 + size * rng.uniform(0.28, 0.45)
    far = leg(front, ground, 0.5) + leg(back, ground, 0.2)
    return [*far, *head, body, *leg(front, ground, 0.0), *leg(back, ground, 0.7)]


def _leg(
    rng: np.random.Generator,
    cloth: Skin,
    hip: Point,
    ground: float,
    width: float,
    period: float,
    stance: float,
    lag: float,
    world: Place,
) -> list[Piece]:
    """Two rods from the hip over a knee to a foot, which stands for the share `stance` of a step.

    `ground` is how far below the body's middle the foot stands when the body is right above it.
    """
    half = (ground - hip[1]) / 2
    bent = half * rng.uniform(-0.5, 0.5)

    def stands(step: float) -> np.ndarray:
        """Where the foot stands in this step: under the hip in the middle of its stance."""
        return _moved(world((step + stance / 2 - lag) * period), (hip[0], ground))

    def ends(t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        step, done = divmod(t / period + lag, 1.0)
        on = max(done - stance, 0.0) / (1 - stance)
        on = on * on * (3 - 2 * on)
        foot = (1 - on) * stands(step) + on * stands(step + 1)
        top = _moved(world(t), hip)
        along = foot - top
        lifted = math.sin(math.pi * on) * 0.25
        across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
        foot = foot - lifted * along
        return top, (top + foot) / 2 + bent * (1 + lifted) * across, foot

    def upper(t: float) -> np.ndarray:
        top, knee, _ = ends(t)
        return np.linalg.inv(world(t)) @ _between(top, knee, half)

    def lower(t: float) -> np.ndarray:
        _, knee, foot = ends(t)
        return np.linalg.inv(world(t)) @ _between(knee, foot, half)

    rod = oval(width, half + width, power=3.0) + np.array([0, half / 2])
    thin = oval(width * 0.8, half + width * 0.8, power=3.0) + np.array([0, half / 2])
    return [piece(rng, cloth, thin, lower), piece(rng, cloth, rod, upper)]


def _moved(matrix: np.ndarray, point: Point) -> np.ndarray:
    x, y, w = matrix @ [*point, 1.0]
    return np.array([x / w, y / w])


def _between(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    """The [3, 3] matrix that lays a rod from (0, 0) to (0, length) between two points."""
    x, y = b - a
    stretch = max(float(np.hypot(x, y)) / length, 0.2)
    return translation(*a) @ rotation(math.atan2(-x, y)) @ scaling(1, stretch)
