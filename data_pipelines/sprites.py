"""Made-up things: pieces cut out of textures, put together into bodies with joints, and their ways.

A body's own coordinates are pixels about its middle, y down. What swings does so by a sine of time:
everything has a place at any time, however long the video.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.rendering import Ripple, rotation, scaling, translation
from data_pipelines.textures import texture

Place = Callable[[float], np.ndarray]
"""Time in frames -> [3, 3]."""

Point = tuple[float, float]


class Swing(NamedTuple):
    """A number (or an array of them) that swings about `mean` for ever; angles in radians."""

    mean: float | np.ndarray = 0.0
    size: float | np.ndarray = 0.0
    rate: float | np.ndarray = 0.0  # per frame
    phase: float | np.ndarray = 0.0

    def at(self, t: float) -> float | np.ndarray:
        """Its value at time `t`."""
        return self.mean + self.size * np.sin(self.rate * t + self.phase)


class Piece(NamedTuple):
    """One rigid part of a body."""

    picture: np.ndarray  # [h, w, 4] uint8: RGB already multiplied by alpha, alpha
    place: Place  # picture pixels -> the body's own coordinates


Skin = Callable[[np.random.Generator, int, int], np.ndarray]
"""(rng, height, width) -> a texture [height, width, 3] uint8."""


def skin(colors: np.ndarray) -> Skin:
    """Textures of all kinds in the palette `colors` [256, 3]."""
    return lambda rng, height, width: texture(rng, (height, width), colors)


def wander(rng: np.random.Generator, speed: float, reach: float) -> Swing:
    """A way [2] that begins at `speed` pixels a frame and leads `reach` pixels off at most."""
    heading = rng.uniform(0, 2 * math.pi)
    size = max(reach, 1e-3) * np.array([math.cos(heading), math.sin(heading)])
    # It starts near the middle of its swing, where it is fast. Another rate for y makes it bend.
    rate = speed / max(reach, 1e-3) * np.array([1.0, rng.uniform(0.7, 1.4)])
    return Swing(0.0, size, rate, rng.uniform(-0.7, 0.7, 2))


def oscillation(
    rng: np.random.Generator, size: float, period: tuple[float, float], mean: float = 0.0
) -> Swing:
    """A swing of `size` about `mean` whose period in frames lies within `period`."""
    return Swing(mean, size, 2 * math.pi / rng.uniform(*period), rng.uniform(0, 2 * math.pi))


def ripples(rng: np.random.Generator, height: float, length: float) -> Callable[[float], Ripple]:
    """Waves up to `height` pixels high, of wavelengths about `length`, that travel with time."""
    lift, sway = height * float(rng.uniform(0.4, 1)), height * float(rng.uniform(0, 0.6))
    growth = float(rng.uniform(-1, 1)) * lift / length
    number, across = (2 * math.pi / (length * rng.uniform(0.6, 1.5, 2))).tolist()
    rate, drift = (rng.choice([-1, 1], 2) * 2 * math.pi / rng.uniform(8, 25, 2)).tolist()
    start, begin = rng.uniform(0, 2 * math.pi, 2).tolist()
    return lambda t: Ripple(lift, growth, number, start + rate * t, sway, across, begin + drift * t)


def cut(picture: np.ndarray, outline: np.ndarray, shade: float = 0.0) -> np.ndarray:
    """The part of a picture [h, w, 3] within a closed `outline` [N, 2]: [h, w, 4] uint8.

    Colours come multiplied by alpha. `shade` darkens it towards its edge, most of all below, as the
    sky does with something round.
    """
    height, width = picture.shape[:2]
    alpha = np.zeros((height, width), np.uint8)
    points = np.rint(np.asarray(outline) * 16).astype(np.int32)
    cv2.fillPoly(alpha, [points], 255, lineType=cv2.LINE_AA, shift=4)
    light = picture.astype(np.float32)
    if shade:
        inside = cv2.distanceTransform(
            np.pad((alpha > 127).view(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_3
        )[1:-1, 1:-1]
        inside /= max(float(inside.max()), 1.0)
        down = np.linspace(-0.5, 1, height, dtype=np.float32)[:, None]
        light *= (1 - shade * (1 - np.sqrt(inside)) * (0.6 + 0.4 * down))[..., None]
    color = np.rint(light * (alpha[..., None] / np.float32(255)))
    return np.dstack([np.clip(color, 0, 255).astype(np.uint8), alpha])


def blob(rng: np.random.Generator, radius: float, ragged: float) -> np.ndarray:
    """A closed outline [64, 2] about the origin: a circle whose radius varies by `ragged`."""
    angle = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    radii = np.ones(64)
    for order in range(2, 7):
        size = ragged * rng.uniform(0.3, 1) / order
        radii += size * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
    return radius * radii[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def oval(width: float, height: float, power: float = 2.0) -> np.ndarray:
    """A closed outline [48, 2] about the origin: an ellipse; a higher `power` makes it a box."""
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    x = np.sign(c) * np.abs(c) ** (2 / power) * width / 2
    return np.stack([x, np.sign(s) * np.abs(s) ** (2 / power) * height / 2], axis=-1)


def piece(
    rng: np.random.Generator, cloth: Skin, outline: np.ndarray, place: Place, shade: float = 0.5
) -> Piece:
    """A piece of `cloth` with an outline [N, 2] about its origin, which `place` puts somewhere."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    width, height = (int(n) for n in np.ceil(high - low) + 3)
    picture = cut(cloth(rng, height, width), outline - low + 1, shade)
    shift = translation(*(low - 1))
    return Piece(picture, lambda t: place(t) @ shift)


def limb(
    rng: np.random.Generator,
    cloth: Skin,
    root: Point,
    length: float,
    width: float,
    swing: Swing,
    bend: Swing,
) -> list[Piece]:
    """Two rods that hang from `root`, the lower one jointed to the upper one's end.

    `swing` is the upper one's angle from straight down, `bend` the lower one's against the upper.
    """
    half = length / 2
    rod = oval(width, half + width, power=3.0) + np.array([0, half / 2])
    thin = oval(width * 0.8, half + width * 0.8, power=3.0) + np.array([0, half / 2])

    def upper(t: float) -> np.ndarray:
        return translation(*root) @ rotation(swing.at(t))

    def lower(t: float) -> np.ndarray:
        return upper(t) @ translation(0, half) @ rotation(bend.at(t))

    return [piece(rng, cloth, thin, lower), piece(rng, cloth, rod, upper)]


def at(x: float, y: float, angle: Swing | None = None) -> Place:
    """A place that stays at (x, y), turning about it if there is an `angle`."""
    if angle is None:
        return lambda t: translation(x, y)
    return lambda t: translation(x, y) @ rotation(angle.at(t))


def lump(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """A smooth body `size` pixels across, mostly with a patch of another texture on it."""
    outline = blob(rng, size / 2, rng.uniform(0.1, 0.7)) * [1, rng.uniform(0.55, 1.0)]
    pieces = [piece(rng, coat, outline, at(0, 0))]
    if rng.random() < 0.6:
        pieces.append(piece(rng, trim, outline * 0.45 + rng.uniform(-0.1, 0.1, 2) * size, at(0, 0)))
    return pieces


def walker(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """An upright body `size` pixels high: a head, two arms and two legs that swing in turn."""
    stride = oscillation(rng, rng.uniform(0.3, 0.8), (9, 26))
    against = stride._replace(phase=stride.phase + math.pi)
    knee = Swing(0.35, 0.35, stride.rate, stride.phase + 1.0)
    girth, hip, neck = size * rng.uniform(0.17, 0.28), size * 0.06, -size * 0.26
    torso = oval(girth, size * 0.4, power=2.6) - [0, size * 0.1]
    width = size * rng.uniform(0.08, 0.12)

    def leg(swing: Swing) -> list[Piece]:
        return limb(rng, trim, (0, hip), size * 0.42, width, swing, knee)

    def arm(swing: Swing) -> list[Piece]:
        return limb(
            rng, coat, (0, neck), size * 0.36, width * 0.75, swing, knee._replace(mean=-0.5)
        )

    head = piece(rng, trim, oval(size * 0.16, size * 0.2), at(0, -size * 0.39))
    body = piece(rng, coat, torso, at(0, 0, oscillation(rng, 0.08, (15, 40))))
    return [*arm(against), *leg(against), body, head, *leg(stride), *arm(stride)]


def beast(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """A long body `size` pixels long with a neck, a head, a tail and four swinging legs."""
    stride = oscillation(rng, rng.uniform(0.3, 0.7), (8, 24))
    deep, width = size * rng.uniform(0.26, 0.38), size * rng.uniform(0.06, 0.1)
    front, back, length = size * 0.24, -size * 0.24, size * rng.uniform(0.28, 0.45)
    body = piece(rng, coat, oval(size * 0.68, deep, power=2.7), at(0, 0))
    nod = oscillation(rng, 0.2, (14, 40), mean=rng.uniform(0.5, 1.0))
    neck = oval(deep * 0.5, size * 0.34) - [0, size * 0.13]
    skull = oval(size * 0.22, size * 0.12) + np.array([size * 0.05, -size * 0.27])
    tail = limb(
        rng,
        coat,
        (-size * 0.32, -deep * 0.25),
        size * 0.3,
        width * 0.6,
        oscillation(rng, 0.4, (10, 30), mean=0.9),
        oscillation(rng, 0.4, (10, 30)),
    )

    def leg(x: float, lag: float) -> list[Piece]:
        swing = stride._replace(phase=stride.phase + lag)
        bend = Swing(0.1, 0.3, stride.rate, swing.phase + 1.2)
        return limb(rng, coat, (x, deep * 0.3), length, width, swing, bend)

    shoulder = at(size * 0.28, -deep * 0.2, nod)
    head = [piece(rng, coat, neck, shoulder), piece(rng, trim, skull, shoulder)]
    far, near = leg(front, math.pi) + leg(back, 0.3), leg(front, 0.0) + leg(back, math.pi + 0.3)
    return [*far, *tail, *head, body, *near]


def wagon(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """A box `size` pixels long with a cabin on two rolling wheels."""
    high, wheel = size * rng.uniform(0.24, 0.36), size * rng.uniform(0.2, 0.3)
    speed = rng.choice([-1, 1]) * rng.uniform(0.1, 0.5)
    body = piece(rng, coat, oval(size, high, power=rng.uniform(3, 8)), at(0, 0))
    cabin = oval(size * rng.uniform(0.4, 0.65), high * 1.1, power=3.5)
    top = piece(rng, trim, cabin, at(size * rng.uniform(-0.15, 0.15), -high * 0.7))

    def rolling(x: float) -> Piece:
        def place(t: float) -> np.ndarray:
            return translation(x, high * 0.5) @ rotation(speed * t)

        return piece(rng, trim, oval(wheel, wheel), place, shade=0.7)

    return [top, body, rolling(-size * 0.3), rolling(size * 0.3)]


def flyer(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """A slim body between two wings, `size` pixels across, that flap."""
    flap = oscillation(rng, rng.uniform(0.3, 0.8), (7, 20))
    wing = oval(size * 0.5, size * rng.uniform(0.2, 0.32)) + np.array([size * 0.22, 0])
    mirror = scaling(-1, 1)

    def right(t: float) -> np.ndarray:
        return rotation(flap.at(t))

    def left(t: float) -> np.ndarray:
        return mirror @ right(t)

    body = piece(rng, coat, oval(size * 0.18, size * 0.5), at(0, 0))
    head = piece(rng, trim, oval(size * 0.14, size * 0.14), at(0, -size * 0.28))
    return [piece(rng, trim, wing, left), piece(rng, trim, wing, right), head, body]


def post(rng: np.random.Generator, size: float, coat: Skin, trim: Skin) -> list[Piece]:
    """A tall thin thing, twice `size` pixels high: a pole, or a tree with a crown."""
    trunk = oval(size * rng.uniform(0.1, 0.25), size * 2, power=6.0)
    pieces = [piece(rng, coat, trunk, at(0, 0))]
    if rng.random() < 0.5:
        crown = blob(rng, size * rng.uniform(0.3, 0.5), 0.5)
        pieces.append(piece(rng, trim, crown, at(0, -size * 0.7)))
    return pieces


Body = Callable[[np.random.Generator, float, Skin, Skin], list[Piece]]
ARTICULATED: tuple[Body, ...] = (walker, beast, wagon, flyer)
