"""Made-up video with its masks and exact flow: clip number `index` of an endless, seeded supply.

A scene is a handful of flat surfaces at several depths, seen by a camera that pans, zooms, rolls
and tilts: a far background, one or two nearer pieces of ground, one to three bodies that move by
themselves (turning, growing, rippling, swinging their limbs), and others of the same kinds that
stand still in the world, some of them in front. Light, noise and motion blur come on top.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.rendering import render
from data_pipelines.scenes import World, scene
from data_pipelines.textures import Looks

MOTION = World()
"""Only motion tells the objects: they, the distractors and the background have the same looks."""

SALIENT = World(
    size=(0.45, 0.8),
    articulated=0.4,
    distractors=(0, 3),
    in_front=0.15,
    camera=0.01,
    camouflage=0.0,
    background=Looks(hue=(80, 260), saturation=(0.05, 0.25), value=(0.15, 0.55)),
    movers=Looks(hue=(-25, 50), saturation=(0.75, 1.0), value=(0.7, 1.0)),
    still=Looks(hue=(80, 260), saturation=(0.05, 0.3), value=(0.2, 0.65)),
    illumination=0.12,
    noise=3.0,
    shutter=0.5,
)
"""Objects stand out, bright and warm before a muted world: a little training finds them."""

WILD = World(
    size=(0.2, 0.75),
    speed=(0.003, 0.05),
    articulated=0.6,
    camera=0.035,
    follow=0.55,
    water=0.3,
    shadow=0.4,
    background=Looks(saturation=(0.0, 0.6), plain=0.45),
    movers=Looks(plain=0.25),
    still=Looks(plain=0.3),
    noise=3.0,
)
"""As hand-held films of the real world: faster cameras and bodies, surfaces without texture."""

OUTDOORS = replace(
    WILD,
    cast=0.35,
    planted=0.45,
    trail=0.35,
    trails=Looks(saturation=(0.0, 0.3), value=(0.4, 1.0), plain=0.5),
)
"""WILD, where bodies stand on their feet, throw shadows and leave wakes, spray, dust and smoke."""

WATERS = replace(OUTDOORS, lakes=1.0, speed=(0.002, 0.035), shadow=0.0, cast=0.0)
"""OUTDOORS on lakes: birds and boats that float before their mirror images, and whoever surfs."""

SEEDS = {"train": 0, "val": 1, "test": 2}
"""The seed of each split's clips where none is given: no two splits share one."""


class ProceduralClip(NamedTuple):
    """A made-up video of T frames.

    Attributes:
        frames: [T, H, W, 3] uint8 RGB.
        labels: [T, H, W] uint8: 0 background, 1..K the visible parts of the moving objects.
        flow: [T - 1, H, W, 2] float32: where what is seen at t has moved at t + 1: (x, y) pixels.
        index: Which clip of the supply it is.
        seed: Which supply.
    """

    frames: np.ndarray
    labels: np.ndarray
    flow: np.ndarray
    index: int
    seed: int


def clip(
    index: int,
    *,
    seed: int = 0,
    frames: int = 8,
    size: tuple[int, int] = (256, 448),
    world: World = MOTION,
) -> ProceduralClip:
    """Clip `index` of the supply `seed`: `frames` frames of `size` (height, width).

    The same arguments give the same bits in every process, and a shorter clip is the beginning of
    a longer one.
    """
    if index < 0 or seed < 0 or frames < 1 or min(size) < 16:
        raise ValueError(
            "A clip needs index >= 0, seed >= 0, frames >= 1 and a size of at least 16 x 16, "
            f"not index {index}, seed {seed}, {frames} frames, size {size}."
        )
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    layers = scene(rng, size, world)
    shutter = world.shutter * float(rng.uniform(0.3, 1)) * (rng.random() < 0.5)
    pictures, labels, flow = render(layers, frames, size, shutter=shutter)
    finished = _finished(rng, pictures, world)
    return ProceduralClip(finished, labels, flow, index, seed)


def _finished(rng: np.random.Generator, pictures: np.ndarray, world: World) -> np.ndarray:
    """Pictures [T, H, W, 3] uint8 as a sensor gives them: under changing light, with noise."""
    noise = rng.uniform(0, world.noise)
    uneven, flicker = (world.illumination * rng.uniform(0, 1, 2)).tolist()
    heading, turn, rate, phase = rng.uniform((0, -0.1, 0.05, 0), (6.3, 0.1, 0.3, 6.3)).tolist()
    y, x = np.ogrid[-1 : 1 : pictures.shape[1] * 1j, -1 : 1 : pictures.shape[2] * 1j]
    finished = np.empty(pictures.shape, np.uint8)
    for t, picture in enumerate(pictures):
        angle = heading + turn * t
        light = uneven * (x * math.cos(angle) + y * math.sin(angle))
        light += flicker * math.sin(rate * t + phase)
        lit = picture * cv2.cvtColor(np.exp(light, dtype=np.float32), cv2.COLOR_GRAY2RGB)
        # The sum of two bytes is bell-shaped enough, and far cheaper than normal numbers.
        first, second = rng.integers(0, 256, (2, *picture.shape), np.uint8)
        grain = (first.astype(np.float32) + second - 255) * np.float32(noise * math.sqrt(6) / 256)
        finished[t] = cv2.add(lit, grain, dtype=cv2.CV_8U)  # rounds and saturates
    return finished
