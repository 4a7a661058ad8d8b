"""Water in made-up video: what floats on it, what it mirrors, and that its motion is nobody's."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipelines import scenes
from data_pipelines.camera import random_camera
from data_pipelines.procedural import OUTDOORS, WATERS, clip
from data_pipelines.rendering import OPAQUE, render, to_frame
from data_pipelines.scenes import scene
from data_pipelines.sprites import skin
from data_pipelines.textures import Looks, palette
from data_pipelines.waters import FLOATING, WATERLINE, reflection, water

SIZE = (64, 96)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def coat(rng):
    return skin(palette(rng, Looks()))


def lowest(part, t):
    """The y of the lowest point of a piece that is seen, in the body's own coordinates."""
    y, x = np.nonzero(part.picture[..., 3] >= OPAQUE)
    placed = part.place(t) @ np.stack([x, y, np.ones(len(x))])
    return (placed[1] / placed[2]).max()


def test_water_is_background_that_moves_though_nothing_else_does(rng):
    still = random_camera(rng, SIZE, 0.0)
    base, *glints = water(rng, SIZE, still, palette(rng, Looks()))
    assert base.picture[..., 3].min() == 255 and glints
    assert all(glint.picture[..., 3].max() < OPAQUE for glint in glints), (
        "the water is what is seen"
    )
    assert all(layer.label == 0 for layer in (base, *glints))
    spot = np.array([80.0]), np.array([60.0])
    ways = [
        np.ravel(to_frame(layer.pose(9), spot)) - np.ravel(to_frame(layer.pose(0), spot))
        for layer in (base, *glints)
    ]
    assert all(np.linalg.norm(way) > 0.01 for way in ways)
    assert np.linalg.norm(ways[0] - ways[1]) > 0.05, "each its own way"


def test_water_reaches_below_the_frame_and_follows_the_camera(rng):
    for _ in range(8):
        moving = random_camera(rng, SIZE, 0.03)
        base, *_ = water(rng, SIZE, moving, palette(rng, Looks()))
        _, labels, _ = render([base._replace(endless=True), base._replace(label=1)], 1, SIZE)
        assert labels[0, -1].all(), "the lowest row is water"
    pan = [np.ravel(to_frame(base.pose(t), (np.array([80.0]), np.array([60.0])))) for t in (0, 12)]
    assert np.linalg.norm(pan[1] - pan[0]) > 2


@pytest.mark.parametrize("kind", sorted(set(FLOATING), key=lambda kind: kind.__name__))
def test_what_floats_ends_at_the_waterline(rng, kind):
    for _ in range(6):
        pieces = kind(rng, 60.0, coat(rng), coat(rng))
        depths = [lowest(part, t) for part in pieces for t in (0.0, 7.0)]
        assert max(depths) < WATERLINE * 60 + 4, "it may roll a little"
        assert max(depths) > 0, "it is in the water"


def test_a_reflection_hangs_from_the_waterline_and_is_not_what_is_seen(rng):
    (body, *_) = pieces = FLOATING[0](rng, 60.0, coat(rng), coat(rng))
    below = reflection(rng, pieces, 60.0)
    assert len(below) == len(pieces)
    assert 0 < max(part.picture[..., 3].max() for part in below) < OPAQUE
    line = WATERLINE * 60
    for t in (0.0, 5.0):
        down = below[0].place(t) @ np.linalg.inv(body.place(t))
        np.testing.assert_allclose((down @ [7, line, 1])[:2], [7, line], atol=1e-9)
        x, y = (down @ [7, line - 20, 1])[:2]
        assert x == pytest.approx(7) and line + 9 < y < line + 21, "upside down, perhaps flatter"


def test_lakes_have_floating_bodies_as_often_as_the_world_says(monkeypatch):
    lakes = []
    made = scenes.water
    monkeypatch.setattr(scenes, "water", lambda *given: lakes.append(1) or made(*given))

    def mirrored(world):
        """How many layers there are that may be reflections: background that is nearly clear."""
        lakes.clear()
        rng = np.random.default_rng(0)
        layers = [layer for _ in range(16) for layer in scene(rng, SIZE, replace(world, trail=0.0))]
        return sum(0 < layer.picture[..., 3].max() < 0.46 * 255 for layer in layers if layer.label)

    assert mirrored(replace(OUTDOORS, shadow=0.0, cast=0.0)) == 0 and not lakes
    assert mirrored(WATERS) > 16 and len(lakes) == 16
    mirrored(replace(WATERS, lakes=0.5))
    assert 3 < len(lakes) < 13


@pytest.mark.parametrize("nearer", [0, 1, 2])
def test_a_lake_has_colours_of_its_own_where_there_would_be_nearer_ground(monkeypatch, nearer):
    colours = {}
    for name in ("_far", "water"):
        made = getattr(scenes, name)

        def noted(rng, size, camera, given, *rest, name=name, made=made):
            colours[name] = given
            return made(rng, size, camera, given, *rest)

        monkeypatch.setattr(scenes, name, noted)
    scene(np.random.default_rng(0), SIZE, replace(WATERS, grounds=(nearer, nearer)))
    assert np.array_equal(colours["_far"], colours["water"]) == (nearer == 0)


def test_the_same_numbers_give_the_same_bits():
    one, other = (clip(5, frames=3, size=SIZE, world=WATERS) for _ in range(2))
    np.testing.assert_array_equal(one.frames, other.frames)
    assert np.isfinite(one.flow).all() and one.labels.any()
