"""What moving things leave behind in made-up video: a wake, spray, dust or smoke, no part of them.

A trail is a row of soft puffs. Each is born at the body, stays in the world or drifts there, turns,
swells and churns, dies and is born again further on: so it has a place at any time.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from data_pipelines.rendering import Layer, Pose, Ripple, rotation, scaling, translation
from data_pipelines.sprites import Place
from data_pipelines.textures import octaves, texture

FAINTEST = 0.02
"""The size of a puff that is being born, of its full one: a place must have an inverse."""


def trail(
    rng: np.random.Generator, length: float, colors: np.ndarray, body: Place, view: Place
) -> list[Layer]:
    """The puffs behind a body of `length` pixels, farthest first; they are background.

    Args:
        rng: What it is drawn from.
        length: Pixels across the body.
        colors: [256, 3] uint8.
        body: Where the body is in the world at any time.
        view: How the camera sees the world.
    """
    count, life = int(rng.integers(8, 16)), float(rng.uniform(8, 28))
    rises = rng.random() < 0.5  # smoke and dust; else a wake
    drift = length * rng.uniform(-0.02, 0.02, 2) - [0, rises * length * rng.uniform(0, 0.03)]
    spread = np.array([0.45, 0.2 if rises else 0.08]) * length
    foot = np.array([rng.uniform(-0.4, 0.4), rng.uniform(0.15, 0.4)]) * length
    span, peak = rng.uniform(0.25, 0.7) * length, rng.uniform(0.35, 1.0)

    def puff(k: int) -> Layer:
        size = span * rng.uniform(0.6, 1.3)
        picture = _puff(rng, math.ceil(size), colors, peak * rng.uniform(0.6, 1.0))
        root = foot + rng.uniform(-1, 1, 2) * spread
        spin, own = rng.uniform(-0.15, 0.15), drift + rng.uniform(-0.02, 0.02, 2) * length
        late = life * (k + rng.uniform(0, 0.5)) / count
        churn = _churn(rng, size)

        def pose(t: float) -> Pose:
            age = (t + late) % life
            begin = body(t - age) @ [*root, 1.0]
            x, y = begin[:2] / begin[2] + own * age
            full = (0.6 + 0.8 * age / life) * math.sin(math.pi * age / life) ** 0.5
            outer = view(t) @ translation(x, y) @ rotation(spin * age)
            middle = translation(-size / 2, -size / 2)
            return Pose(outer, scaling(max(full, FAINTEST)) @ middle, churn(t))

        return Layer(picture, pose)

    return [puff(k) for k in range(count)]


def _puff(rng: np.random.Generator, side: int, colors: np.ndarray, peak: float) -> np.ndarray:
    """A soft ragged cloud [side, side, 4] uint8, of an alpha up to `peak`."""
    side = max(side, 4)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    ragged = octaves(rng, (side, side), cell=max(side / 3, 2), falloff=0.6)
    alpha = np.clip((1 - np.hypot(x, y)) * (0.4 + 1.6 * ragged), 0, 1) ** rng.uniform(0.5, 1.2)
    alpha = np.rint(255 * peak * alpha).clip(0, 255).astype(np.uint8)
    picture = texture(rng, (side, side), colors)
    alphas = cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB)
    return np.dstack([cv2.multiply(picture, alphas, scale=1 / 255), alpha])


def _churn(rng: np.random.Generator, size: float) -> Callable[[float], Ripple]:
    lift, sway = (size * rng.uniform(0.02, 0.12, 2)).tolist()
    number, across = (2 * math.pi / (size * rng.uniform(0.4, 1.0, 2))).tolist()
    rate, other = (rng.choice([-1, 1], 2) * 2 * math.pi / rng.uniform(5, 14, 2)).tolist()
    start, begin = rng.uniform(0, 2 * math.pi, 2).tolist()
    return lambda t: Ripple(lift, 0.0, number, start + rate * t, sway, across, begin + other * t)
