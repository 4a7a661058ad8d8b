"""The Mix Transformer's attention, drop path and scales; its numbers are pinned by TMO's parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.mix_transformer import Attention, Block, MixTransformer


def maps(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), shape)


def test_every_place_mixes_the_values_of_all_by_its_own_softmax_in_each_head():
    layer, x = Attention(heads=2, reduction=1), maps(1, 2, 3, 4)
    variables = layer.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: 30 * leaf, variables)
    p = variables["params"]
    flat = np.asarray(x).reshape(6, 4)
    query, key, value = (flat @ p[name]["kernel"] for name in ("query", "key", "value"))
    mixed = np.zeros((6, 4))
    for channels in (slice(0, 2), slice(2, 4)):
        affinity = np.exp(query[:, channels] @ key[:, channels].T / np.sqrt(2))
        mixed[:, channels] = affinity / affinity.sum(1, keepdims=True) @ value[:, channels]
    expected = (mixed @ p["dense"]["kernel"]).reshape(x.shape)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_keys_of_a_reduced_map_see_whole_patches_and_drop_what_makes_none():
    layer, x = Attention(heads=1, reduction=2), maps(1, 4, 5, 4)
    variables = jax.tree.map(lambda leaf: 20 * leaf, layer.init(jax.random.key(0), x))
    before = layer.apply(variables, x)
    outside = layer.apply(variables, x.at[:, :, 4].add(9.0))  # the fifth column is in no patch
    np.testing.assert_allclose(outside[:, :, :4], before[:, :, :4], atol=1e-5)
    inside = layer.apply(variables, x.at[:, 0, 0].set(5 * x[:, 3, 3]))
    assert np.abs(inside - before)[:, 1:, 1:4].max() > 1e-3


def test_a_dropped_path_leaves_whole_pictures_as_they_were_and_scales_the_others():
    block, x = Block(heads=1, reduction=1, drop=0.5), jnp.concatenate([maps(1, 3, 3, 4)] * 12)
    variables = jax.tree.map(lambda leaf: 20 * leaf, block.init(jax.random.key(0), x, False))
    # With the second path silent, a picture has the first one twice or not at all.
    variables["params"]["mlp"]["dense2"] = jax.tree.map(
        jnp.zeros_like, variables["params"]["mlp"]["dense2"]
    )
    still = block.apply(variables, x, False)
    dropped = block.apply(variables, x, True, rngs={"dropout": jax.random.key(3)})
    times = (dropped - x) / (still - x)
    per_picture = np.median(times.reshape(12, -1), axis=1).round(3)
    assert set(per_picture.tolist()) == {0.0, 2.0}
    expected = np.broadcast_to(per_picture[:, None, None, None], x.shape) * (still - x)
    np.testing.assert_allclose(dropped - x, expected, atol=1e-4)


def test_maps_of_four_scales_widen_by_1_2_5_8_and_paths_drop_more_and_more():
    model = MixTransformer(depths=(2, 1, 1, 1), width=4, drop=0.4)
    shapes = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 64, 96, 3)), False)
    )
    answers, variables = shapes
    assert [a.shape[1:] for a in answers] == [
        (16, 24, 4),
        (8, 12, 8),
        (4, 6, 20),
        (2, 3, 32),
    ]
    assert "block0_1" in variables["params"] and "block1_1" not in variables["params"]
    assert "sr" in variables["params"]["block2_0"]["attention"]
    assert "sr" not in variables["params"]["block3_0"]["attention"]


def test_a_picture_too_small_for_one_key_is_refused():
    with pytest.raises(ValueError, match="at least 29 x 29"):
        jax.eval_shape(
            lambda: MixTransformer(width=4).init(jax.random.key(0), jnp.zeros((1, 28, 64, 3)), True)
        )
