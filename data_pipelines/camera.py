"""The camera of made-up video: how it sees a plane at some depth, at any time."""

import functools
import math
from typing import NamedTuple

import numpy as np

from data_pipelines.rendering import rotation, scaling, translation
from data_pipelines.sprites import Place, Swing, oscillation, wander


def remembered(place: Place) -> Place:
    """`place`, worked out once for each of the latest times: all pieces of a thing ask for them."""
    return functools.lru_cache(maxsize=16)(place)


class Camera(NamedTuple):
    center: tuple[float, float]
    pan: tuple[Swing, ...]  # [2] pixels, at depth 1
    zoom: Swing
    roll: Swing
    tilt: Swing  # [2] perspective terms, per pixel

    def lens(self, t: float) -> np.ndarray:
        """What roll and tilt do to the whole picture at time `t`: [3, 3]."""
        tilted = np.eye(3)
        tilted[2, :2] = self.tilt.at(t)
        there, back = _about(self.center)
        return there @ tilted @ rotation(self.roll.at(t)) @ back

    def at(self, depth: float) -> Place:
        """How it sees a plane at `depth` that is drawn as seen from the camera's middle."""
        there, back = _about(self.center)

        def view(t: float) -> np.ndarray:
            nearer = scaling(math.exp(self.zoom.at(t) / depth))
            return self.lens(t) @ there @ nearer @ translation(*-self.shift(t) / depth) @ back

        return remembered(view)

    def shift(self, t: float) -> np.ndarray:
        """How far the camera is from where it looks on average: [2] pixels at depth 1."""
        return np.sum([swing.at(t) for swing in self.pan], axis=0)


def random_camera(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Camera:
    """A camera for frames of `size` that pans by up to `strength` of their shorter side a frame.

    Shake, zoom, roll and tilt are of random shares of that strength.
    """
    unit = min(size)
    shake, tilt = 0.08 * strength * unit * rng.random(2), 4 * strength / unit * rng.random(2)
    return Camera(
        center=((size[1] - 1) / 2, (size[0] - 1) / 2),
        pan=(
            wander(rng, strength * unit, 0.2 * unit),
            Swing(0.0, shake, rng.uniform(0.5, 2, 2), rng.uniform(0, 6, 2)),
        ),
        zoom=oscillation(rng, 4 * strength * rng.random(), (40, 120)),
        roll=oscillation(rng, 4 * strength * rng.random(), (40, 120)),
        tilt=Swing(0.0, tilt, rng.uniform(0.02, 0.1, 2), rng.uniform(0, 6, 2)),
    )


def _about(center: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The moves from the origin to `center` and back: [3, 3] each."""
    x, y = center
    return translation(x, y), translation(-x, -y)
