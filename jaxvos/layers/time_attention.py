"""Attention along time: each place of a map looks at itself in the other frames of a clip."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.typing import DType


class TimeAttention(nn.Module):
    """[B, T, h, w, C] -> the same shape: x plus what each place finds at its place in all T frames.

    Queries, keys and values are linear in x; a weight for each distance in time is added to the
    scores of a head. There is no mask: frames before and behind are looked at alike.

    Attributes:
        heads: Number of heads.
        features: Channels of a head.
        reach: Distances in time beyond this one have the weight of this one.
        dtype: What the layers compute in; scores are float32.
    """

    heads: int = 4
    features: int = 16
    reach: int = 6
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def project(name: str) -> jax.Array:
            return nn.DenseGeneral((self.heads, self.features), dtype=self.dtype, name=name)(x)

        query, key, value = project("query"), project("key"), project("value")
        scores = jnp.einsum("btyxhc,bsyxhc->byxhts", query, key).astype(jnp.float32)
        weights = self.param(
            "distance", nn.initializers.zeros, (self.heads, 2 * self.reach + 1), jnp.float32
        )
        time = jnp.arange(x.shape[1])
        apart = jnp.clip(time[None] - time[:, None], -self.reach, self.reach) + self.reach
        share = nn.softmax(scores * self.features**-0.5 + weights[:, apart][None, None, None])
        found = jnp.einsum("byxhts,bsyxhc->btyxhc", share.astype(value.dtype), value)
        out = nn.DenseGeneral(
            x.shape[-1],
            axis=(-2, -1),
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="out",
        )
        return x + out(found)
