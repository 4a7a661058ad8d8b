"""The outdoor world of made-up video: feet that stand, shadows on the ground, and what is left."""

import math
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines import scenes
from data_pipelines.procedural import OUTDOORS, clip
from data_pipelines.rendering import OPAQUE, scaling, to_frame, translation
from data_pipelines.scenes import _cast, scene
from data_pipelines.sprites import at, oval, piece, skin
from data_pipelines.striders import _leg, strider
from data_pipelines.textures import Looks, palette
from data_pipelines.trails import trail


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def coat(rng):
    return skin(palette(rng, Looks()))


def walk(t):
    """To the right, and a little larger all the time."""
    return translation(30 + 2.0 * t, 50) @ scaling(math.exp(0.01 * t))


def of_body(matrix, x, y):
    moved = matrix @ [x, y, 1.0]
    return moved[:2] / moved[2]


def test_a_foot_stands_while_the_body_goes_on_and_then_steps(rng):
    period, stance, half = 10.0, 0.6, 10.0
    thin, rod = _leg(rng, coat(rng), (0.0, 5.0), 25.0, 4.0, period, stance, 0.0, walk)
    times = np.arange(0, 20, 0.5)

    def end(part, t, y):
        """Where a point of the rod is in the world, `y` below the top of its picture."""
        x = (part.picture.shape[1] - 1) / 2
        return of_body(walk(t) @ part.place(t), x, y)

    # The picture of a rod begins above its joint by half its width and the pixel around it.
    top = 4.0 * 0.8 / 2 + 1
    feet = np.array([end(thin, t, half + top) for t in times])
    steps = np.linalg.norm(np.diff(feet, axis=0), axis=1)
    standing = np.array([(t % period) < stance * period - 0.5 for t in times[:-1]])
    assert steps[standing].max() < 0.03, "the middle of its picture is half a pixel off its axis"
    assert steps[~standing].max() > 2 * np.linalg.norm(walk(1)[:2, 2] - walk(0)[:2, 2])
    hips = np.array([end(rod, t, 4.0 / 2 + 1) for t in times])
    expected = np.array([of_body(walk(t), 0, 5) for t in times])
    np.testing.assert_allclose(hips, expected, atol=0.5)
    strides = (feet - expected)[:20, 0]  # a whole period
    assert abs(strides.max() + strides.min()) < 3, "as far before the hip as behind it"


def test_striders_of_both_kinds_are_whole_bodies(rng):
    counts = {len(strider(rng, 60.0, coat(rng), coat(rng), walk)) for _ in range(12)}
    assert counts == {
        6,
        11,
    }  # two legs or four of two rods each; body and head, or body, neck, skull


def test_a_trail_stays_where_the_body_was(rng):
    layers = trail(rng, 40.0, palette(rng, Looks()), walk, lambda t: np.eye(3))
    assert len(layers) >= 8 and all(layer.label == 0 for layer in layers)
    spot = np.array([20.0]), np.array([20.0])
    ways = []
    for layer in layers:
        places = np.array([np.ravel(to_frame(layer.pose(t), spot)) for t in np.arange(0, 40, 0.25)])
        assert np.isfinite(places).all()
        ways.append(np.linalg.norm(np.diff(places, axis=0), axis=1) / 0.25)
        ahead = places[:, 0] - [walk(t)[0, 2] for t in np.arange(0, 40, 0.25)]
        assert ahead.min() < -30, "left behind"
    assert np.median(ways) < 2.0, "slower than the body, but for births"


def test_puffs_are_invisible_when_they_are_born_again(rng):
    (layer, *_) = trail(rng, 40.0, palette(rng, Looks()), walk, lambda t: np.eye(3))
    times = np.arange(0, 40, 0.01)
    sizes = np.array([np.sqrt(abs(np.linalg.det(layer.pose(t).inner))) for t in times])
    centres = np.array([layer.pose(t).outer[:2, 2] for t in times])
    jumps = np.linalg.norm(np.diff(centres, axis=0), axis=1) > 2
    assert jumps.any() and sizes[:-1][jumps].max() < 0.15
    assert sizes.max() > 0.8


def test_a_shadow_lies_on_the_ground_and_is_not_what_is_seen(rng):
    body = piece(rng, coat(rng), oval(10, 40), at(0, 0))
    (shadow,) = _cast(rng, [body], 40.0)
    assert shadow.picture[..., 3].max() < OPAQUE and shadow.picture[..., :3].max() == 0
    assert shadow.picture[..., 3].max() > 50
    ground = 40.0 * 0.47
    foot, head = (np.linalg.inv(body.place(0)) @ [0, y, 1.0] for y in (ground, -20.0))
    np.testing.assert_allclose((shadow.place(0) @ foot)[:2], [0, ground], atol=1e-9)
    assert (shadow.place(0) @ head)[1] > ground, "it falls to the front"


def test_the_world_has_all_of_them_and_the_same_numbers_give_the_same_bits():

    def background(world):
        rng = np.random.default_rng(0)
        layers = [layer for _ in range(24) for layer in scene(rng, (64, 96), world)]
        return sum(layer.label == 0 for layer in layers)

    assert background(OUTDOORS) > background(replace(OUTDOORS, trail=0.0)) + 24 * 2
    one, other = (clip(5, frames=3, size=(64, 96), world=OUTDOORS) for _ in range(2))
    np.testing.assert_array_equal(one.frames, other.frames)
    np.testing.assert_array_equal(
        clip(5, frames=2, size=(64, 96), world=OUTDOORS).flow, one.flow[:1]
    )
    assert np.isfinite(one.flow).all() and one.labels.any()


def test_bodies_cast_shadows_and_walk_as_often_as_the_world_says(monkeypatch):
    walked = []
    made = scenes.strider
    monkeypatch.setattr(scenes, "strider", lambda *given: walked.append(1) or made(*given))

    def shadows(**change):
        world = replace(OUTDOORS, articulated=1.0, shadow=0.0, trail=0.0, **change)
        rng = np.random.default_rng(0)
        layers = [layer for _ in range(4) for layer in scene(rng, (64, 96), world)]
        bodies = [layer.picture for layer in layers if layer.label]
        dark = [p for p in bodies if not p[..., :3].any() and p[..., 3].max() < OPAQUE]
        return len(dark), len(bodies)

    assert shadows(cast=0.0, planted=0.0)[0] == 0 and not walked
    dark, bodies = shadows(cast=1.0, planted=1.0)
    assert 2 * dark == bodies, "a shadow for every piece"
    assert len(walked) >= 4
