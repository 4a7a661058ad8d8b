"""Optimisers: rates and rules against numbers worked by hand."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jaxvos import optim

PARAMS = {
    "encoder": {"conv": {"kernel": jnp.array([1.0, -2.0])}, "bn": {"scale": jnp.array([1.0])}},
    "head": {"kernel": jnp.array([3.0])},
}


def recipe(**changes):
    """A constant rate of 0.1 without momentum or decay, but for the changes."""
    plain = {
        "name": "sgd",
        "rate": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "poly",
        "power": 0.0,
        "drop_after_epochs": 0,
        "drop": 1.0,
        "warmup": 0,
        "groups": ((".*", (1.0,)),),
    }
    return ConfigDict(plain | changes)


def stepped(recipe, params, gradients, **lengths):
    """The parameters after each of the gradients."""
    optimizer = optim.build(recipe, params, **({"steps": 100, "steps_per_epoch": 10} | lengths))
    state, seen = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def test_sgd_with_momentum_and_decay_is_pytorchs_rule():
    # d = g + 0.1 p;  buffer = 0.9 buffer + d, at first d;  p = p - 0.1 buffer;  with g = 0.5:
    #   d = 0.6      buffer = 0.6       p = 0.94
    #   d = 0.594    buffer = 1.134     p = 0.8266
    #   d = 0.58266  buffer = 1.60326   p = 0.666274
    rule = recipe(momentum=0.9, weight_decay=0.1)
    seen = stepped(rule, {"w": jnp.array([1.0])}, [{"w": jnp.array([0.5])}] * 3)
    got = [float(params["w"][0]) for params in seen]
    np.testing.assert_allclose(got, [0.94, 0.8266, 0.666274], rtol=1e-6)


def test_adamw_clips_the_gradient_and_adds_the_decay_to_the_update():
    # (30, 40) is clipped to (0.6, 0.8). Adam's first update is its sign, whatever its size; the
    # second, for a gradient of (0.3, 0.4) that needs no clipping, shows the 0.6.
    rule = recipe(name="adamw", weight_decay=0.5)
    gradients = [{"w": jnp.array([30.0, 40.0])}, {"w": jnp.array([0.3, 0.4])}]
    first, second = stepped(rule, {"w": jnp.array([2.0, -4.0])}, gradients)
    np.testing.assert_allclose(first["w"], [2 - 0.1 * (1 + 1), -4 - 0.1 * (1 - 2)], rtol=1e-5)
    m = (0.9 * 0.1 * 0.6 + 0.1 * 0.3) / (1 - 0.9**2)
    v = (0.999 * 0.001 * 0.36 + 0.001 * 0.09) / (1 - 0.999**2)
    expected = 1.8 - 0.1 * (m / v**0.5 + 0.5 * 1.8)
    np.testing.assert_allclose(second["w"][0], expected, rtol=1e-5)


def test_the_poly_rate_falls_as_stated_and_drops_once():
    rate = optim.schedule(
        recipe(power=0.9, drop_after_epochs=6, drop=0.5), steps=100, steps_per_epoch=10
    )
    # 0.1 * (1 - step / 100)^0.9, halved from step 60 on.
    expected = {0: 0.1, 50: 0.0535887, 59: 0.0448234, 60: 0.0219191, 99: 0.000792447, 100: 0.0}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(jnp.int32(step)), value, rtol=1e-5, atol=1e-9)


def test_the_cosine_rate_rises_over_the_warm_up_and_falls_to_nothing():
    rate = optim.schedule(recipe(schedule="cosine", warmup=3), steps=8, steps_per_epoch=1)
    halves = [0.5 * (1 + np.cos(np.pi * step / 8)) for step in range(9)]
    warm = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]
    expected = [0.1 * a * b for a, b in zip(halves, warm, strict=True)]
    got = [rate(jnp.int32(step)) for step in range(9)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-8)


def test_groups_take_turns_by_the_global_step_and_frozen_ones_never_move():
    groups = (("encoder/bn/.*", (0.0,)), ("encoder/.*", (1.0, 0.01, 0.01)), (".*", (0, 10.0, 10.0)))
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    seen = [PARAMS, *stepped(recipe(groups=groups), PARAMS, [ones] * 7)]
    moved = [jax.tree.map(lambda a, b: a - b, *pair) for pair in pairwise(seen)]
    encoder = [float(step["encoder"]["conv"]["kernel"][1]) for step in moved]
    head = [float(step["head"]["kernel"][0]) for step in moved]
    np.testing.assert_allclose(encoder, [0.1, 0.001, 0.001, 0.1, 0.001, 0.001, 0.1], rtol=1e-3)
    np.testing.assert_allclose(head, [0, 1, 1, 0, 1, 1, 0], rtol=1e-5)
    assert all(float(step["encoder"]["bn"]["scale"][0]) == 0 for step in moved)


def test_turns_go_on_where_a_restored_state_left_them():
    rule = recipe(groups=((".*", (1.0, 0.0, 2.0)),), momentum=0.5)
    optimizer = optim.build(rule, {"w": jnp.zeros(1)}, steps=9, steps_per_epoch=3)
    params, gradient = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    state = optimizer.init(params)
    _, state = optimizer.update(gradient, state, params)
    again = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), state)
    updates, again = optimizer.update(gradient, again, params)
    assert float(updates["w"][0]) == 0.0
    updates, _ = optimizer.update(gradient, again, params)
    np.testing.assert_allclose(updates["w"], [-0.1 * 2 * 1.75], rtol=1e-6)


def test_the_first_expression_that_matches_a_whole_path_counts():
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    groups = (("encoder/conv", (5.0,)), ("encoder/.*", (1.0,)), (".*", (0.0,)))
    with pytest.raises(ValueError, match=r"match no parameter: 'encoder/conv'\.$"):
        stepped(recipe(groups=groups), PARAMS, [ones])
    (after,) = stepped(recipe(groups=groups[1:]), PARAMS, [ones])
    np.testing.assert_allclose(after["encoder"]["conv"]["kernel"], [0.9, -2.1], rtol=1e-6)
    np.testing.assert_allclose(after["head"]["kernel"], [3.0])


def test_a_parameter_of_no_group_is_an_error():
    with pytest.raises(ValueError, match=r"No group .* matches the parameter 'head/kernel'"):
        stepped(recipe(groups=(("encoder/.*", (1.0,)),)), PARAMS, [])


@pytest.mark.parametrize(("key", "value"), [("name", "lion"), ("schedule", "stairs")])
def test_an_unknown_rule_or_schedule_is_refused_with_those_there_are(key, value):
    with pytest.raises(ValueError, match=rf"optimizer\.{key} is '{value}'; there are '"):
        stepped(recipe(**{key: value}), PARAMS, [])


def test_one_cycle_rises_for_a_twentieth_of_the_steps_and_falls_to_nothing():
    rate = optim.schedule(recipe(schedule="one_cycle"), steps=100, steps_per_epoch=1)
    seen = [float(rate(step)) for step in (0, 5, 53, 100)]
    np.testing.assert_allclose(seen, [0.1 / 25, 0.1, 0.1 * 47 / 95, 0], rtol=1e-5, atol=1e-9)
    assert float(rate(2)) == pytest.approx(0.1 * (0.04 + 0.96 * 0.4))


def test_rmsprop_is_pytorchs_rule_with_clipped_values():
    # g = clip(80) + 0.1 * 2 = 50.2; square = 0.01 g^2; p = 2 - 0.1 g / (0.1 g + 1e-8) = 1
    # g = 3 + 0.1 * 1 = 3.1;         square = 0.99 * 25.2004 + 0.0961 = 25.044496
    rule = recipe(name="rmsprop", weight_decay=0.1)
    seen = stepped(rule, {"w": jnp.array([2.0])}, [{"w": jnp.array([g])} for g in (80.0, 3.0)])
    got = [float(params["w"][0]) for params in seen]
    np.testing.assert_allclose(got, [1.0, 1 - 0.1 * 3.1 / 25.044496**0.5], rtol=1e-5)
