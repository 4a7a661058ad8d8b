"""Atrous spatial pyramid pooling (ASPP) of DeepLab v3, as the COSNet family uses it."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType


class ASPP(nn.Module):
    """Looks at a map at several scales at once: [B, h, w, C] -> [B, h, w, features].

    Branches in the order in which they are joined: the picture's mean, 1x1, one 3x3 a rate; then a
    3x3 fusion and a PReLU with one slope. Every convolution has a bias beside its BatchNorm.
    """

    branch: int = 512
    features: int = 256
    rates: Sequence[int] = (6, 12, 18)
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        mean = nn.relu(norm(name="bn_x")(conv(self.branch, (1, 1), name="conv")(mean)))
        branches = [jnp.broadcast_to(mean, (*x.shape[:3], self.branch))]
        branches += [nn.relu(norm(name="bn_0")(conv(self.branch, (1, 1), name="conv2d_0")(x)))]
        for i, rate in enumerate(self.rates, 1):
            seen = conv(
                self.branch, (3, 3), kernel_dilation=rate, padding=rate, name=f"conv2d_{i}"
            )(x)
            branches.append(nn.relu(norm(name=f"bn_{i}")(seen)))
        joined = jnp.concatenate(branches, axis=-1)
        fused = conv(self.features, (3, 3), padding=1, name="bottleneck")(joined)
        return nn.PReLU(negative_slope_init=0.25, name="prelu")(norm(name="bn")(fused))
