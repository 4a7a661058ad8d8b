"""The refiner: its network, its loss, and how it is given what is known of a frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos import refiner
from jaxvos.checkpoints import shipped
from jaxvos.colour_guided import Looked
from jaxvos.refiner import BOUND, Refiner, colours_of, refining
from jaxvos.system import initialise
from jaxvos.systems import mover

TINY = Refiner(widths=(4, 6))


@pytest.fixture(scope="module")
def new():
    return initialise(mover.REFINER, TINY, 0)


@pytest.fixture(scope="module")
def drawn(new):
    """Weights with which corrections count, which a new network's do not."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), jnp.float32)  # noqa: E731
    return new | {"params": jax.tree.map(draw, new["params"])}


def given(size=(8, 12), seed=0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    colours, scores = rng.normal(0, 0.2, (1, *size, 3)), rng.random((1, *size, 3))
    return colours.astype(np.float32), scores.astype(np.float32)


def looked(size=(13, 18)) -> Looked:
    rng = np.random.default_rng(1)
    maps = rng.random((3, *size)).astype(np.float32)
    return Looked(rng.integers(0, 256, (*size, 3), np.uint8), *maps)


def test_a_new_network_leaves_the_last_scores_as_they_are(new):
    colours, scores = given()
    scores[0, 0, :2, 2] = 0, 1
    found = jax.nn.sigmoid(TINY.apply(new, colours, scores)["refined"])
    np.testing.assert_allclose(found, scores[..., 2:].clip(0.01, 0.99), atol=1e-6)


def test_a_logit_is_changed_by_no_more_than_the_bound_and_by_all_that_is_seen(drawn):
    def change(colours, scores):
        last = scores[..., 2:].clip(0.01, 0.99)
        return TINY.apply(variables, colours, scores)["refined"] - np.log(last / (1 - last))

    colours, scores = given()
    variables = drawn
    plain = change(colours, scores)
    assert 0.01 < np.abs(plain).max() <= BOUND
    for channel in range(3):
        others = scores.copy()
        others[..., channel] = 1 - others[..., channel]
        assert np.abs(change(colours, others) - plain).max() > 1e-3
        others = colours.copy()
        others[..., channel] += 0.3
        assert np.abs(change(others, scores) - plain).max() > 1e-3
    variables = drawn | {"params": jax.tree.map(lambda leaf: 50 * leaf, drawn["params"])}
    assert np.abs(change(colours, scores)).max() == pytest.approx(BOUND, abs=1e-4)
    same = {"kernel": 0 * drawn["params"]["correction"]["kernel"], "bias": jnp.full(4, -1.5)}
    variables = drawn | {"params": drawn["params"] | {"correction": same}}
    np.testing.assert_allclose(change(colours, scores), BOUND * np.tanh(-1.5 / BOUND), atol=1e-5)


def test_sides_that_cannot_be_halved_are_refused(new):
    with pytest.raises(ValueError, match=r"multiples of 4, not \(8, 10\)"):
        TINY.apply(new, *given((8, 10)))


def test_every_layer_learns_its_statistics_from_the_batch(drawn):
    _, changed = TINY.apply(drawn, *given(), train=True, mutable=["batch_stats"])
    moved = jax.tree.map(
        lambda a, b: bool((a != b).all()), changed, {"batch_stats": drawn["batch_stats"]}
    )
    assert all(jax.tree.leaves(moved)), moved


def test_the_loss_is_cross_entropy_and_dice_and_says_what_it_was_before():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 4, 5, 1)).astype(np.float32)
    masks = rng.random((2, 4, 5, 1)).astype(np.float32)
    scores = rng.random((2, 4, 5, 3)).astype(np.float16)
    batch = {"masks": masks, "scores": scores}
    total, metrics = refiner.loss({"refined": logits}, batch)

    def entropy(p):
        return -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()

    p = 1 / (1 + np.exp(-logits))
    dice = 1 - (2 * (p * masks).sum() + 1) / ((p + masks).sum() + 1)
    np.testing.assert_allclose(total, entropy(p) + 0.5 * dice, rtol=1e-5)
    np.testing.assert_allclose(metrics["entropy"], entropy(p), rtol=1e-5)
    before = scores[..., 2:].astype(np.float32).clip(0.01, 0.99)
    np.testing.assert_allclose(metrics["given"], entropy(before), rtol=1e-3)


def test_pictures_of_any_size_are_seen_with_their_edge_repeated(drawn):
    frame = looked()
    colours = frame.picture / np.float32(255)
    colours -= colours.mean((0, 1))
    scores = np.stack([frame.own, frame.matched, frame.settled], axis=-1)
    padded = (np.pad(x, ((0, 3), (0, 2), (0, 0)), mode="edge")[None] for x in (colours, scores))
    expected = jax.nn.sigmoid(TINY.apply(drawn, *padded)["refined"])[0, :13, :18, 0]
    found = refining(TINY, drawn)(frame)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_colours_are_what_sets_a_place_apart_from_the_picture():
    picture = looked().picture
    found = colours_of(picture)
    np.testing.assert_allclose(found.mean((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(
        found[3, 4] - found[0, 0], (picture[3, 4] / 255 - picture[0, 0] / 255), atol=1e-6
    )


def test_bfloat16_keeps_float32_parameters_and_nearly_the_logits(drawn):
    half = Refiner(widths=(4, 6), dtype="bfloat16")
    made = jax.tree.leaves(initialise(mover.REFINER, half, 0))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    a, b = (model.apply(drawn, *given())["refined"] for model in (TINY, half))
    assert a.dtype == b.dtype == jnp.float32 and 0 < np.abs(a - b).mean() < 0.05


def test_weights_of_another_system_are_refused():
    with pytest.raises(ValueError, match="holds weights of 'mover', not of 'mover_refiner'"):
        refiner.refiner_of(shipped("mover"))
