"""DeepLab v1 with a large field of view: VGG-16, its last blocks dilated in place of shrunk."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax

from jaxvos.layers.pooling import max_pool
from jaxvos.typing import DType

WIDER = (1, 2, 4, 8, 8)
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class VGG(nn.Module):
    """Pictures [B, H, W, 3] -> the last block, pooled, [B, h, w, 8 * width], about 1/8.

    The last two poolings keep the size, and the last block is dilated in return. Layers are named
    so that ImageNet's weights find their places.
    """

    width: int
    convolutions: Sequence[int]
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(nn.Conv, kernel_size=(3, 3), kernel_init=HE, dtype=self.dtype)
        for b, (count, wider) in enumerate(zip(self.convolutions, WIDER, strict=True), 1):
            d = 2 if b == 5 else 1
            for j in range(1, count + 1):
                name = f"block{b}_conv{j}"
                x = conv(wider * self.width, kernel_dilation=d, padding=d, name=name)(x)
                x = nn.relu(x)
            x = max_pool(x, 3, 2 if b < 4 else 1, 1, ceil=True)
        return x


class LargeFOV(nn.Module):
    """Pictures [B, H, W, 3] -> features [B, h, w, features] after the layer fc6, about 1/8.

    Places of the features lie on every eighth pixel from the first one on.

    Attributes:
        width: Channels of the first block (published: 64); the others have 2, 4, 8 and 8 times as
            many.
        convolutions: Of each block; (2, 2, 3, 3, 3) is VGG-16.
        features: Channels of fc6 (published: 1024).
        rate: Dilation of fc6 (published: 12).
        dtype: What the layers compute in; parameters stay float32.
    """

    width: int = 64
    convolutions: Sequence[int] = (2, 2, 3, 3, 3)
    features: int = 1024
    rate: int = 12
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = VGG(self.width, self.convolutions, self.dtype, name="vgg")(x)
        x = nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)))  # zeros beyond the edge, as in Caffe
        fc6 = nn.Conv(
            self.features,
            (3, 3),
            kernel_dilation=self.rate,
            padding=self.rate,
            kernel_init=HE,
            dtype=self.dtype,
            name="fc6",
        )
        return nn.relu(fc6(x))


NAMES = ((r"conv([1-5])_([1-3])", r"vgg/block\1_conv\2"), (r"fc6", r"fc6"))
"""Modules of the Caffe network -> `LargeFOV`; fc7 and the classifier have no place in it."""
