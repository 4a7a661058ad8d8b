"""A branch that predicts where an object's centre is, beside an encoder's answer.

Liu, Yu, Wang, Zhou, "F2Net: Learning to Focus on the Foreground for Unsupervised Video Object
Segmentation", AAAI 2021: a decoder of the encoder's stages, and a head that adds to the object's
looks where the previous frame had it. What is drawn and sought in heat maps is `layers.centres`.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType


class Up(nn.Module):
    """One unit of the decoder: a stage and the unit before, resized to it, [B, h, w, C]."""

    features: int
    std: float
    dtype: DType | None

    @nn.compact
    def __call__(self, skip: jax.Array, below: jax.Array | None, train: bool) -> jax.Array:
        conv = _conv(self.std, self.dtype, use_bias=False)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        x = norm(name="skip_bn")(conv(self.features, (1, 1), name="skip_conv")(skip))
        if below is not None:
            if below.shape[1:3] != skip.shape[1:3]:
                below = bilinear(below, skip.shape[1:3])
            x += norm(name="up_bn")(conv(self.features, (1, 1), name="up_conv")(below))
        return nn.relu(x)


class Decoder(nn.Module):
    """The centre branch's own features [B, h, w, cross] at 1/4, from the stages' outputs."""

    features: int
    cross: int
    std: float
    dtype: DType | None

    @nn.compact
    def __call__(self, stages: Sequence[jax.Array], train: bool) -> jax.Array:
        x = None
        for i, skip in enumerate(reversed(stages), 1):
            x = Up(self.features, self.std, self.dtype, name=f"up{i}")(skip, x, train)
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="cross_bn")
        conv = _conv(self.std, self.dtype, use_bias=False)
        return nn.relu(norm(conv(self.cross, (1, 1), name="cross_conv")(x)))


class Heat(nn.Module):
    """Heat logits [B, h, w, 1] float32: the object's looks plus where the previous frame had it."""

    features: int
    std: float
    dtype: DType | None

    @nn.compact
    def __call__(self, cross: jax.Array, previous: jax.Array) -> jax.Array:
        conv = _conv(self.std, self.dtype)
        unlikely = nn.initializers.constant(-2.19)  # a probability of 0.1
        looks = nn.relu(conv(self.features, (3, 3), padding=1, name="conv")(cross))
        looks = conv(1, (1, 1), bias_init=unlikely, name="classifier")(looks)
        both = jnp.concatenate([cross, previous.astype(cross.dtype)], axis=-1)
        w, b = (conv(1, (1, 1), name=name)(both) for name in ("motion_w", "motion_b"))
        w, b, looks = (x.astype(jnp.float32) for x in (w, b, looks))
        return nn.sigmoid(w) * previous + nn.sigmoid(b) + looks


def _conv(std: float, dtype: DType | None, *, use_bias: bool = True) -> partial:
    init = nn.initializers.normal(std)
    return partial(nn.Conv, kernel_init=init, use_bias=use_bias, dtype=dtype)
