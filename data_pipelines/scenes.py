"""Scenes of made-up video: which surfaces there are, and where they are at any time."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.camera import Camera, random_camera, remembered
from data_pipelines.rendering import Layer, Pose, Ripple, rotation, scaling, translation
from data_pipelines.sprites import (
    ARTICULATED,
    Body,
    Piece,
    Place,
    at,
    blob,
    cut,
    lump,
    oscillation,
    oval,
    piece,
    post,
    ripples,
    skin,
    wander,
)
from data_pipelines.striders import strider
from data_pipelines.textures import Looks, octaves, palette, texture
from data_pipelines.trails import trail
from data_pipelines.waters import FLOATING, reflection, water

Span = tuple[float, float]
Size = tuple[int, int]

ANY = Looks()


@dataclass(frozen=True)
class World:
    """What the clips of one kind are drawn from; lengths are fractions of the frame's shorter side.

    Attributes:
        objects: The fewest and the most bodies that move.
        size: How large they are.
        speed: Their own speed, a frame.
        articulated: How many of them have joints; the others are lumps.
        rippling: How many of them have a wave running through them.
        turning: Top turning speed of lumps, radians a frame.
        growing: By what factor, as a power of e, they grow and shrink at most.
        occlusion: How often the second starts near the first, so that one covers the other.
        distractors: The fewest and the most things that stand still.
        in_front: How many of those are nearer than the moving ones.
        grounds: The fewest and the most nearer pieces of background.
        camera: Speed of the camera; zoom, roll, tilt and shake go with it. 0: a tripod.
        follow: How often the camera follows the first object, so that the background moves instead.
        water: How often the far background ripples.
        shadow: How often objects have a dark spot under them.
        cast: How often the light throws the whole shadow of a body with joints on the ground.
        planted: How many of the bodies with joints walk on feet that stand on the ground.
        lakes: How often water with a bank lies where nearer ground would, and bodies float on it.
        trail: How many bodies leave a wake, spray, dust or smoke.
        camouflage: How often an object wears the colours of the background.
        background, movers, still, trails: The colours of each.
        illumination: How much light changes over place and time, as a power of e.
        noise: Most standard deviation of the sensor's noise, in grey levels.
        shutter: Longest exposure, in frames; none in half of the clips.
    """

    objects: tuple[int, int] = (1, 3)
    size: Span = (0.3, 0.7)
    speed: Span = (0.006, 0.035)
    articulated: float = 0.55
    rippling: float = 0.35
    turning: float = 0.06
    growing: float = 0.2
    occlusion: float = 0.5
    distractors: tuple[int, int] = (0, 4)
    in_front: float = 0.35
    grounds: tuple[int, int] = (1, 2)
    camera: float = 0.02
    follow: float = 0.5
    water: float = 0.2
    shadow: float = 0.3
    cast: float = 0.0
    planted: float = 0.0
    lakes: float = 0.0
    trail: float = 0.0
    camouflage: float = 0.25
    background: Looks = ANY
    movers: Looks = ANY
    still: Looks = ANY
    trails: Looks = ANY
    illumination: float = 0.25
    noise: float = 5.0
    shutter: float = 0.8


SHARES = (
    "articulated",
    "rippling",
    "occlusion",
    "in_front",
    "follow",
    "water",
    "shadow",
    "cast",
    "planted",
    "lakes",
    "trail",
    "camouflage",
)
"""What of a World says how often something is there, or how many of the bodies have it: 0..1."""

COUNTS = ("distractors", "grounds")
"""What of a World says how many there are: the fewest and the most."""


def scene(rng: np.random.Generator, size: Size, world: World) -> list[Layer]:
    """The surfaces of a random scene for frames of `size` (height, width), the farthest first."""
    follows = rng.random() < world.follow
    strength = rng.uniform(0.6, 1.5) if follows else rng.uniform(0, 1)
    camera = random_camera(rng, size, world.camera * strength)
    grounds = [palette(rng, world.background) for _ in range(1 + _count(rng, world.grounds))]
    layers = _far(rng, size, camera, grounds[0], world)
    floats = _happens(rng, world.lakes)
    if floats:
        layers.extend(water(rng, size, camera, grounds[:2][-1]))
    else:
        for nearness, colors in enumerate(grounds[1:], start=1):
            layers.append(_ground(rng, size, camera, colors, nearness))
    behind, front = [], []
    for _ in range(_count(rng, world.distractors)):
        near = rng.random() < world.in_front
        (front if near else behind).extend(_still(rng, size, camera, near, world))
    moving = _movers(rng, size, camera, grounds, follows, floats, world)
    order = rng.permutation(len(moving))
    return [*layers, *behind, *(layer for k in order for layer in moving[k]), *front]


def _movers(
    rng: np.random.Generator,
    size: Size,
    camera: Camera,
    grounds: list[np.ndarray],
    follows: bool,
    floats: bool,
    world: World,
) -> list[list[Layer]]:
    """The layers of each body that moves; the camera follows the first one if it `follows` any.

    If it `floats`, there is water below, and two thirds of the bodies are made for that.
    """
    together, shadows = rng.random() < world.occlusion, rng.random() < world.shadow
    unit, spot = min(size), _spot(rng, size, 0.3)
    if floats:
        spot[1] = size[0] * rng.uniform(0.45, 0.8)
    moving: list[list[Layer]] = []
    for number in range(_count(rng, world.objects)):
        clothes = [palette(rng, world.movers) for _ in range(2)]
        if rng.random() < world.camouflage:
            clothes = [grounds[rng.integers(len(grounds))]] * 2
        length = unit * float(rng.uniform(*world.size)) / (1 + 0.25 * number)
        kind = _kind(rng, world)
        if floats and rng.random() < 0.67:
            kind = FLOATING[rng.integers(len(FLOATING))]
        way = _way(rng, spot, unit, kind is lump, world)
        place = _in_world(camera, way, followed=follows and number == 0)
        outer = _seen(camera, place)
        jointed = kind is not lump and kind not in FLOATING
        walks = jointed and _happens(rng, world.planted)
        if walks:
            pieces = strider(rng, length, *map(skin, clothes), place)
        else:
            pieces = kind(rng, length, *map(skin, clothes))
        if jointed and _happens(rng, world.cast):
            pieces = [*_cast(rng, pieces, length), *pieces]
        if shadows and jointed:  # a tumbling thing's would go round with it
            pieces = [_shadow(rng, length), *pieces]
        waves = ripples(rng, 0.12 * length, length) if rng.random() < world.rippling else None
        if walks or kind in FLOATING:
            waves = None
        layers = [_moving(p, outer, number + 1, waves) for p in pieces]
        if kind in FLOATING:
            waves = ripples(rng, 0.03 * length, 0.25 * length)
            below = reflection(rng, pieces, length)
            layers = [*(_moving(p, outer, number + 1, waves) for p in below), *layers]
        if _happens(rng, world.trail):
            puffs = trail(rng, length, palette(rng, world.trails), place, camera.at(1.0))
            layers = [*layers, *puffs] if rng.random() < 0.3 else [*puffs, *layers]
        moving.append(layers)
        spot = spot + rng.uniform(-0.6, 0.6, 2) * length if together else _spot(rng, size, 0.2)
    return moving


def _spot(rng: np.random.Generator, size: Size, margin: float) -> np.ndarray:
    """A point [2] (x, y) at least `margin` of the frame away from its edges."""
    return rng.uniform(margin, 1 - margin, 2) * [size[1], size[0]]


def _way(
    rng: np.random.Generator, spot: np.ndarray, unit: float, tumbles: bool, world: World
) -> Place:
    """How a body that starts about `spot` goes, turns and grows."""
    path = wander(rng, unit * rng.uniform(*world.speed), 0.2 * unit)
    growth = oscillation(rng, world.growing * rng.random(), (25, 80))
    turn, lean = rng.uniform(-world.turning, world.turning), rng.uniform(-0.15, 0.15)
    rock = oscillation(rng, 2 * world.turning * rng.random(), (20, 60), mean=lean)
    flipped = scaling(rng.choice([-1, 1]), 1)

    def place(t: float) -> np.ndarray:
        angle = turn * t if tumbles else rock.at(t)
        return (
            translation(*(spot + path.at(t)))
            @ rotation(angle)
            @ scaling(math.exp(growth.at(t)))
            @ flipped
        )

    return place


def _in_world(camera: Camera, way: Place, followed: bool) -> Place:
    """Where the body that goes its `way` is; ahead of the `camera` wherever that pans, if followed.

    What follows a body holds still in the picture, and the background moves.
    """

    def place(t: float) -> np.ndarray:
        ahead = translation(*camera.shift(t)) if followed else np.eye(3)
        return ahead @ way(t)

    return remembered(place)


def _seen(camera: Camera, place: Place) -> Place:
    """Where `camera` sees what has a `place` in the world."""
    view = camera.at(1.0)
    return remembered(lambda t: view(t) @ place(t))


def _moving(
    piece: Piece, outer: Place, label: int, ripples: Callable[[float], Ripple] | None
) -> Layer:
    def pose(t: float) -> Pose:
        return Pose(outer(t), piece.place(t), ripples and ripples(t))

    return Layer(piece.picture, pose, label)


def _shadow(rng: np.random.Generator, length: float) -> Piece:
    """A soft dark oval under a body `length` pixels long: too thin to count as what is seen."""
    outline = oval(length * rng.uniform(0.7, 1.1), length * 0.2)
    black = np.zeros((256, 3), np.uint8)
    spot = piece(rng, skin(black), outline, at(rng.uniform(-0.2, 0.2) * length, 0.45 * length))
    alpha = spot.picture // 4 + spot.picture // 8
    return spot._replace(picture=alpha)


def _cast(rng: np.random.Generator, pieces: list[Piece], length: float) -> list[Piece]:
    """The shadow of a body on the ground: flat, aslant, and too thin to be what is seen."""
    slant, flat = float(rng.uniform(-0.9, 0.9)), float(rng.uniform(0.25, 0.7))
    thrown = np.array([[1, -slant, 0], [0, -flat, 0], [0, 0, 1.0]])
    ground = length * 0.47
    thrown = translation(0, ground) @ thrown @ translation(0, -ground)
    dark = float(rng.uniform(0.25, 0.45))

    def shadow(part: Piece) -> Piece:
        picture = np.zeros_like(part.picture)
        picture[..., 3] = cv2.blur(part.picture[..., 3], (5, 5)) * dark
        return Piece(picture, lambda t: thrown @ part.place(t))

    return [shadow(part) for part in pieces]


def _happens(rng: np.random.Generator, share: float) -> bool:
    """Whether this one is among a `share`; of none, nothing is drawn: older worlds stay as is."""
    return bool(share) and rng.random() < share


def _count(rng: np.random.Generator, span: tuple[int, int]) -> int:
    return int(rng.integers(span[0], span[1] + 1))


def _far(
    rng: np.random.Generator, size: Size, camera: Camera, colors: np.ndarray, world: World
) -> list[Layer]:
    """The endless background, and patches of other textures in the same colours upon it."""
    shape = int(size[0] * 1.3), int(size[1] * 1.3)
    opaque = np.full((*shape, 1), 255, np.uint8)
    picture = np.concatenate([texture(rng, shape, colors), opaque], axis=-1)
    view = camera.at(rng.uniform(1.5, 4))
    waves = ripples(rng, 0.012 * min(size), min(size)) if rng.random() < world.water else None

    def lying(picture: np.ndarray, spot: np.ndarray, endless: bool = False) -> Layer:
        def pose(t: float) -> Pose:
            return Pose(view(t), spot, waves and waves(t))

        return Layer(picture, pose, endless=endless)

    corner = translation((size[1] - shape[1]) / 2, (size[0] - shape[0]) / 2)
    layers = [lying(picture, corner, endless=True)]
    for _ in range(rng.integers(0, 3)):
        outline = blob(rng, min(size) * rng.uniform(0.15, 0.4), 0.6)
        patch = piece(rng, skin(colors), outline, at(*_spot(rng, size, 0.0)), shade=0.0)
        layers.append(lying(patch.picture, patch.place(0)))
    return layers


def _ground(
    rng: np.random.Generator,
    size: Size,
    camera: Camera,
    colors: np.ndarray,
    nearness: int,
) -> Layer:
    """A plane from a ragged horizon to below the frame, the lower the nearer to the camera."""
    height, width = size
    top = height * (rng.uniform(0.35, 0.6) + 0.2 * (nearness - 1))
    shape = int(height * 1.1), int(width * 1.8)
    across = np.arange(shape[1], dtype=np.float32)
    rough = octaves(rng, (1, shape[1]), cell=width * rng.uniform(0.1, 0.6), falloff=0.4)[0]
    edge = 2 + rough * height * rng.uniform(0.02, 0.25)
    corners = np.array([[shape[1], shape[0]], [0, shape[0]]], np.float32)
    outline = np.concatenate([np.stack([across, edge], axis=-1), corners])
    picture = cut(texture(rng, shape, colors), outline)
    # Rows further down are nearer: the third coordinate falls from 1 at the horizon.
    leaning = np.eye(3)
    leaning[2, 1] = -rng.uniform(0.05, 0.25) / height
    plane = translation((width - 1) / 2, top) @ leaning @ translation(-shape[1] / 2, 0)
    depth = rng.uniform(1.0, 1.5) / nearness

    def pose(t: float) -> Pose:
        return Pose(camera.lens(t) @ plane, translation(*-camera.shift(t) / depth))

    return Layer(picture, pose)


def _still(
    rng: np.random.Generator, size: Size, camera: Camera, near: bool, world: World
) -> list[Layer]:
    """A thing that stands still in the world, caught in mid-movement if it is a body."""
    depth = rng.uniform(0.75, 1.0) if near else rng.uniform(1.0, 2.0)
    unit = min(size)
    kind = _kind(rng, world) if rng.random() < 0.6 else post
    length = unit * rng.uniform(*world.size) * (0.6 if near else 0.8)
    coat, trim = (skin(palette(rng, world.still)) for _ in range(2))
    pieces = kind(rng, length, coat, trim)
    moment = float(rng.uniform(0, 100))
    spot = translation(*(rng.uniform(0.05, 0.95, 2) * [size[1], size[0]]))
    spot = spot @ scaling(rng.choice([-1, 1]), 1)
    view = camera.at(depth)
    return [_fixed(p.picture, view, spot @ p.place(moment)) for p in pieces]


def _fixed(picture: np.ndarray, view: Place, spot: np.ndarray) -> Layer:
    """A picture that stays at its `spot` [3, 3] of the world."""
    return Layer(picture, lambda t: Pose(view(t), spot))


def _kind(rng: np.random.Generator, world: World) -> Body:
    if rng.random() < world.articulated:
        return ARTICULATED[rng.integers(len(ARTICULATED))]
    return lump
