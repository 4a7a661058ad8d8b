"""What a video's first mask is read from, and the steps that learn from it."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.first_mask import DECAY, MOMENTUM, tuned, with_first_mask
from jaxvos.typing import Video
from jaxvos.video import write_mask

FRAMES = [np.zeros((4, 6, 3), np.uint8)] * 2
RATE = 0.1


def test_a_videos_own_mask_comes_before_the_file(tmp_path):
    write_mask(tmp_path / "mask.png", np.ones((4, 6), np.uint8))
    place = str(tmp_path / "mask.png")
    own = np.full((4, 6), 2)
    found = with_first_mask(Video(FRAMES, first_mask=own), place)
    np.testing.assert_array_equal(found.first_mask, own)
    np.testing.assert_array_equal(with_first_mask(Video(FRAMES), place).first_mask, 1)


def squared(model, variables, target):
    """Half the squared distance of a and b to a target, each."""
    del model
    params = variables["params"]
    return 0.5 * sum(jnp.square(params[name]["x"] - target).sum() for name in "ab")


def test_the_steps_are_sgd_with_momentum_and_decay_on_the_examples_in_turn():
    start = np.float32([1.0, -2.0])
    variables = {"params": {"a": {"x": jnp.asarray(start)}, "b": {"x": jnp.asarray(start)}}}
    targets = np.float32([[3.0, 1.0], [-5.0, 0.5]])
    found = tuned(
        squared,
        nn.Module(),
        variables,
        [(target,) for target in targets],
        parts=("a",),
        steps=5,
        rate=RATE,
    )
    x, velocity = start.astype(np.float64), 0.0
    for step in range(5):
        velocity = MOMENTUM * velocity + (x - targets[step % 2]) + DECAY * x
        x = x - RATE * velocity
    assert (MOMENTUM, DECAY) == (0.9, 0.0005)
    np.testing.assert_allclose(found["params"]["a"]["x"], x, rtol=1e-6)
    np.testing.assert_array_equal(found["params"]["b"]["x"], start)
    np.testing.assert_array_equal(variables["params"]["a"]["x"], start)


def test_without_a_mask_anywhere_it_says_how_to_give_one():
    with pytest.raises(ValueError, match=r"no first mask.*--set mask=FILE"):
        with_first_mask(Video(FRAMES), None)
