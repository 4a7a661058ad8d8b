"""What our own small U-Nets share: blocks, the way up, and maps whose places hold 2 x 2 pixels.

Convolutions of few channels on large maps are slow, on a TPU and on a CPU alike: the finest maps
are folded before them and unfolded after them.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.cpu_conv import conv_general_dilated
from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType


class Block(nn.Module):
    """Convolution, BatchNorm, ReLU: [B, h, w, C] -> [B, h / stride, w / stride, features]."""

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
        )
        return nn.relu(BatchNorm(use_running_average=not train, dtype=self.dtype)(conv(x)))


def way_up(maps: Sequence[jax.Array], block: Callable[..., nn.Module], train: bool) -> jax.Array:
    """Each map joined with what comes from the coarser ones: [B, h, w, C] as the first of `maps`.

    To be called while a module is set up: its blocks are named join0, up0, join1, ...

    Args:
        maps: [B, h, w, C], each of half the sides of the one before.
        block: Makes a `Block`.
        train: Whether BatchNorm uses the batch's statistics.
    """
    x = maps[-1]
    for i in range(len(maps) - 2, -1, -1):
        x = jnp.concatenate([maps[i], bilinear(x, maps[i].shape[1:3])], axis=-1)
        x = block(maps[i].shape[-1], kernel=1, name=f"join{i}")(x, train)
        x = block(maps[i].shape[-1], name=f"up{i}")(x, train)
    return x


def folded(x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, h/2, w/2, 4 C]: each place holds 2 x 2."""
    batch, height, width, count = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, count).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * count)


def unfolded(x: jax.Array) -> jax.Array:
    """[B, h, w, 4] -> [B, 2 h, 2 w, 1]: the other way round."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, 2, 2).transpose(0, 1, 3, 2, 4)
    return x.reshape(batch, 2 * height, 2 * width, 1)
