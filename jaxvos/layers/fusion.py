"""Fusion of feature maps by weights that the maps themselves decide on."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType

KINDS = ("channel", "spatial", "both")


class DynamicFusion(nn.Module):
    """Weighs three maps [B, h, w, C] against each other, by channel, by place, or the mean of both.

    All kinds have the parameters of all, so that weights of one fit the others.
    """

    kind: str
    squeezed: int
    std: float
    dtype: DType | None

    @nn.compact
    def __call__(self, sources: Sequence[jax.Array], train: bool) -> jax.Array:
        conv = partial(
            nn.Conv,
            kernel_init=nn.initializers.normal(self.std),
            use_bias=False,
            dtype=self.dtype,
        )
        total, features, fused = sum(sources), sources[0].shape[-1], []
        self.sow("intermediates", "total", total)
        stacked = jnp.stack(sources, axis=3)  # [B, h, w, 3, C]
        making = self.is_initializing()
        if making or self.kind != "spatial":
            x = jnp.mean(total, axis=(1, 2), keepdims=True)
            norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="channel_bn")
            x = nn.relu(norm(conv(self.squeezed, (1, 1), name="channel_conv1")(x)))
            x = conv(3 * features, (1, 1), name="channel_conv2")(x)
            weights = nn.softmax(x.astype(jnp.float32).reshape(-1, 3, features), axis=1)
            self.sow("intermediates", "channel_weights", weights)
            fused.append(jnp.einsum("bhwkc,bkc->bhwc", stacked, weights.astype(total.dtype)))
        if making or self.kind != "channel":
            x = conv(3, (1, 1), name="spatial_conv")(total)
            weights = nn.softmax(x.astype(jnp.float32), axis=-1).astype(total.dtype)
            fused.append(jnp.einsum("bhwkc,bhwk->bhwc", stacked, weights))
        return sum(fused) / len(fused)
