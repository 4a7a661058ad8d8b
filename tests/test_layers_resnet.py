"""Where a residual block's stride is, and what a ResNet returns."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.layers.resnet import Bottleneck, ResNet

TINY = {"depths": (1, 1, 1, 1), "width": 4}


def picture(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def new(model, x):
    return jax.jit(model.init, static_argnums=2)(jax.random.key(1), x, False)


def outputs(model, variables, x):
    return jax.jit(model.apply, static_argnums=2)(variables, x, False)


def test_a_stride_in_the_3x3_thins_the_unstrided_blocks_output():
    x = picture(1, 11, 14, 6)
    whole = Bottleneck(4, dilation=2, project=True)
    variables = new(whole, x)
    thinned = outputs(whole, variables, x)[:, ::2, ::2]
    late = outputs(whole.copy(stride=2, stride_in_3x3=True), variables, x)
    np.testing.assert_allclose(late, thinned, atol=1e-5)
    # The 3x3 of the original sees every second place only.
    early = outputs(whole.copy(stride=2), variables, x)
    assert early.shape == late.shape and np.abs(early - late).max() > 1e-2


def test_a_resnet_hands_the_strides_place_down_to_its_blocks():
    x = picture(1, 33, 49, 3)
    early = ResNet(**TINY)
    late = early.copy(stride_in_3x3=True)
    variables = new(early, x)
    a, b = (outputs(model, variables, x) for model in (early, late))
    assert a.shape == b.shape and np.abs(a - b).max() > 1e-2


def test_every_stage_ends_with_what_the_plain_resnet_returns():
    x = picture(1, 33, 49, 3)
    plain = ResNet(**TINY)
    variables = new(plain, x)
    last = outputs(plain, variables, x)
    stages = outputs(plain.copy(every_stage=True), variables, x)
    np.testing.assert_array_equal(stages[-1], last)
    assert [s.shape[1:] for s in stages] == [(9, 13, 16), (5, 7, 32), (5, 7, 64), (5, 7, 128)]
    assert all(jnp.isfinite(s).all() for s in stages)
