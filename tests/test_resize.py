"""Bicubic resizing has PyTorch's numbers in both corner conventions; logits are float32."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.resize import bicubic, bilinear, logits_at


@pytest.mark.parametrize("size", [(14, 22), (5, 3), (7, 40), (1, 1)])
def test_edges_in_place_it_equals_opencvs_cubic_which_has_the_same_convention(size):
    x = np.random.default_rng(0).standard_normal((2, 7, 11, 3)).astype(np.float32)
    ours = bicubic(jnp.asarray(x), size)
    for one, expected in zip(ours, x, strict=True):
        expected = cv2.resize(expected, size[::-1], interpolation=cv2.INTER_CUBIC)
        np.testing.assert_allclose(one, expected.reshape(*size, 3), atol=1e-5)


def test_corners_in_place_worked_numbers_come_out_in_rows_and_in_columns():
    # Half way between two samples the four around weigh -3/32, 19/32, 19/32, -3/32.
    middles = np.array(
        [(-3 * 1 + 19 * 1 + 19 * 2 - 3 * 4) / 32, (-3 + 19 * 2 + 19 * 4 - 3 * 4) / 32]
    )
    expected = [1.0, middles[0], 2.0, middles[1], 4.0]
    row = jnp.asarray([1.0, 2.0, 4.0]).reshape(1, 3, 1)
    ours = bicubic(row, (1, 5), align_corners=True)
    np.testing.assert_allclose(ours.reshape(-1), expected, rtol=1e-6)
    turned = bicubic(row.reshape(3, 1, 1), (5, 1), align_corners=True)
    np.testing.assert_allclose(turned.reshape(-1), expected, rtol=1e-6)
    np.testing.assert_allclose(bicubic(row, (1, 1), align_corners=True), [[[1.0]]])


def test_it_goes_beyond_the_values_it_is_made_of_and_keeps_their_type():
    edge = jnp.asarray([0.0, 0, 0, 1, 1, 1], jnp.bfloat16).reshape(1, 6, 1)
    finer = bicubic(edge, (1, 24))
    assert finer.dtype == jnp.bfloat16 and finer.min() < -0.01 and finer.max() > 1.01
    np.testing.assert_array_equal(bicubic(edge, (1, 6)), edge)
    assert jax.eval_shape(lambda x: bicubic(x, (9, 9)), jnp.zeros((2, 3, 4, 5, 6))).shape == (
        2,
        3,
        9,
        9,
        6,
    )


def test_logits_of_half_precision_are_interpolated_in_float32():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 4, 1)).astype(jnp.bfloat16)
    found = logits_at(logits, [12, 9])
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, bilinear(logits.astype(jnp.float32), (12, 9)))
    corners = logits_at(logits, (5, 7), align_corners=True)
    np.testing.assert_array_equal(corners[:, ::4, ::6, 0], logits[:, ::2, ::3, 0])
