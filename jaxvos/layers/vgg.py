"""VGG-16's convolutions, of which some blocks alone can be computed."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax

from jaxvos.typing import DType

WIDER = (1, 2, 4, 8, 8)
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class VGG(nn.Module):
    """VGG-16's blocks, each before its pooling: pictures [B, H, W, 3] -> f1 ... f5, 1 to 1/16.

    With `blocks` only some: (5,) of f4 is (f5,).
    """

    width: int
    convolutions: Sequence[int]
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, blocks: Sequence[int] = (1, 2, 3, 4, 5)) -> list[jax.Array]:
        conv = partial(nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=HE, dtype=self.dtype)
        maps = []
        for b in blocks:
            if b > 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for j in range(1, self.convolutions[b - 1] + 1):
                x = nn.relu(conv(WIDER[b - 1] * self.width, name=f"block{b}_conv{j}")(x))
            maps.append(x)
        return maps
