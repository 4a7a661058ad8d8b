"""Attention between places: each place's weighted mean of values, whole or block by block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvos.typing import DType


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, block: int = 0) -> jax.Array:
    """[N, C]: for each query the mean of the values, weighted by softmax over m of query . key m.

    Affinities and softmax are float32. At most `block` rows of the affinity [N, M] exist at a time,
    for the gradient too, which computes them again; 0 keeps the whole.

    Args:
        queries: [N, D].
        keys: [M, D].
        values: [M, C], whose type the result has.
        block: Rows at a time.
    """

    def means(queries: jax.Array) -> jax.Array:
        affinity = jnp.einsum("nd,md->nm", queries.astype(jnp.float32), keys.astype(jnp.float32))
        weights = jax.nn.softmax(affinity, axis=1).astype(values.dtype)
        return jnp.einsum("nm,mc->nc", weights, values)

    n, d = queries.shape
    if not block or n <= block:
        return means(queries)
    rows = jnp.pad(queries, ((0, -n % block), (0, 0))).reshape(-1, block, d)
    return lax.map(jax.checkpoint(means), rows).reshape(-1, values.shape[1])[:n]


class PositionAttention(nn.Module):
    """A map plus gamma times what its places see in each other: [B, h, w, C] -> the same shape.

    gamma begins with 0 (Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019).

    Attributes:
        inner: Channels of queries and keys.
        block: Rows of the affinity that exist at a time; 0 keeps the whole.
        kernel_init: Of the three 1x1 convolutions.
        dtype: What they compute in; affinities and softmax stay float32.
    """

    inner: int
    block: int = 0
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def places(features: int, name: str) -> jax.Array:
            conv = nn.Conv(
                features, (1, 1), kernel_init=self.kernel_init, dtype=self.dtype, name=name
            )
            return conv(x).reshape(len(x), -1, features)

        queries, keys = places(self.inner, "query_conv"), places(self.inner, "key_conv")
        values = places(x.shape[-1], "value_conv")
        seen = jax.vmap(lambda q, k, v: attend(q, k, v, self.block))(queries, keys, values)
        gamma = self.param("gamma", nn.initializers.zeros, (1,))
        return gamma.astype(x.dtype).reshape(1, 1, 1, 1) * seen.reshape(x.shape).astype(x.dtype) + x
