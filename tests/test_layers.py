"""Layers equal worked numbers, their slower selves, and PyTorch's conventions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers import attention
from jaxvos.layers.pooling import max_pool
from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import Stage


def rows(key: int, n: int, c: int = 6) -> jax.Array:
    return jax.random.normal(jax.random.key(key), (n, c))


@pytest.mark.parametrize("block", [4, 8, 64])
def test_blockwise_coattention_has_the_numbers_and_gradients_of_the_whole_matrix(block):
    x, a, b = rows(0, 21), rows(1, 21), rows(2, 13)
    ahead = rows(3, 21), rows(4, 13)

    def weighed(form):
        def value(x, a, b):
            results = form(x, a, b)
            return sum((r * w).sum() for r, w in zip(results, ahead, strict=True)), results

        return jax.grad(value, argnums=(0, 1, 2), has_aux=True)(x, a, b)

    whole = weighed(attention.coattend)
    blocks = weighed(lambda *args: attention.coattend_blockwise(*args, block))
    for ours, expected in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_blockwise_coattention_survives_affinities_of_hundreds():
    x, a, b = 40 * rows(0, 9), rows(1, 9), 40 * rows(2, 7)
    whole = attention.coattend(x, a, b)
    blocks = attention.coattend_blockwise(x, a, b, 4)
    for ours, expected in zip(blocks, whole, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_blockwise_group_attention_has_the_numbers_and_gradients_of_the_whole_matrix():
    x, b, ahead = rows(0, 11), rows(1, 30), rows(2, 11)

    def weighed(form):
        return jax.value_and_grad(lambda x, b: (form(x, b) * ahead).sum(), argnums=(0, 1))(x, b)

    whole = weighed(attention.attend_twice_normalised)
    blocks = weighed(lambda x, b: attention.attend_twice_normalised_blockwise(x, b, 4))
    for ours, expected in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_attention_on_one_sure_match_copies_that_place():
    a, b = 30 * jnp.eye(3), 30 * jnp.eye(3)[jnp.asarray([2, 0, 1])]
    from_b, from_a = attention.coattend(a, a, b)
    np.testing.assert_allclose(from_b, a, atol=1e-4)
    np.testing.assert_allclose(from_a, b, atol=1e-4)


def test_bilinear_puts_corners_where_each_convention_says():
    ramp = jnp.asarray([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1)
    kept = bilinear(ramp, (1, 5), align_corners=True)[0, 0, :, 0]
    np.testing.assert_allclose(kept, [0, 0.5, 1, 1.5, 2], atol=1e-6)
    centred = bilinear(ramp, (1, 6))[0, 0, :, 0]
    np.testing.assert_allclose(centred, [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)
    one = bilinear(jnp.full((1, 1, 1, 2), 7.0), (4, 3), align_corners=True)
    np.testing.assert_allclose(one, 7.0, atol=1e-6)


def test_bilinear_shrinks_without_antialias_like_opencv():
    import cv2

    x = np.random.default_rng(0).standard_normal((17, 23)).astype(np.float32)
    ours = bilinear(jnp.asarray(x)[None, ..., None], (7, 40))[0, ..., 0]
    np.testing.assert_allclose(ours, cv2.resize(x, (40, 7)), atol=1e-5)


@pytest.mark.parametrize(
    ("side", "floor", "ceil"), [(5, 3, 3), (6, 3, 4), (7, 4, 4), (80, 40, 41), (49, 25, 25)]
)
def test_pooling_counts_windows_as_pytorch_does(side, floor, ceil):
    x = jnp.arange(side, dtype=jnp.float32).reshape(1, side, 1, 1) - 100
    for expected, kept in ((floor, False), (ceil, True)):
        pooled = max_pool(x, 3, 2, 1, ceil=kept)[0, :, 0, 0]
        assert len(pooled) == expected
        assert pooled[0] == x[0, 1, 0, 0]  # the padding never wins, negative as all values are
    assert pooled[-1] == x[0, -1, 0, 0]


def test_scanned_and_recomputed_blocks_give_the_plain_ones_numbers_gradients_and_statistics():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    plain = Stage(4, 2, 2, 2)
    variables = plain.init(jax.random.key(1), x, True)

    def run(stage):
        def value(params):
            y, changed = stage.apply(
                {**variables, "params": params}, x, True, mutable=["batch_stats"]
            )
            return (y**2).mean(), changed

        return jax.jit(jax.grad(value, has_aux=True))(variables["params"])

    expected = run(plain)
    for stage in (plain.copy(scan=True), plain.copy(remat=True), plain.copy(scan=True, remat=True)):
        ours = run(stage)
        assert jax.tree.structure(ours) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    evaluated = [s.apply(variables, x, False) for s in (plain, plain.copy(scan=True))]
    np.testing.assert_allclose(*evaluated, atol=1e-6)
