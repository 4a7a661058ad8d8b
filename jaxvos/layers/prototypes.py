"""Prototypes: a map's features summed up as a few vectors, their graph, and where they are found.

A channel's prototype is the mean of the features at all places, weighted by where that channel is
high. B batch, C channels, N vectors, k neighbours.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType

# PyTorch's linear layers begin like this.
LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
SMALL = nn.initializers.normal(0.01)


def prototypes(x: jax.Array) -> jax.Array:
    """The prototypes [B, C, C] of maps [B, h, w, C], one a channel: its mean feature vector.

    The weights are the softmax of the channel over all places; no gradient goes through them.
    """
    places = x.reshape(len(x), -1, x.shape[-1])
    places = places.astype(jnp.promote_types(x.dtype, jnp.float32))
    weights = nn.softmax(jax.lax.stop_gradient(places), axis=1)
    return jnp.einsum("bpn,bpc->bnc", weights, places)


def correlation_maps(x: jax.Array, vectors: jax.Array) -> jax.Array:
    """Cosines [B, h, w, N] of the features [B, h, w, C] with N vectors each, [B, N, C]; of 0: 0."""
    x = x.astype(vectors.dtype)
    return jnp.einsum("bhwc,bnc->bhwn", unit(x), unit(vectors))


def unit(x: jax.Array) -> jax.Array:
    """Vectors [..., C] at length 1; 0 stays 0, and its gradient is finite."""
    square = (x**2).sum(axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1))


def attended(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(query key^T) value, not scaled: [B, P, D], [B, Q, D], [B, Q, C] -> [B, P, C]."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    affinity = jnp.einsum("bpd,bqd->bpq", query.astype(wide), key.astype(wide))
    return jnp.einsum("bpq,bqc->bpc", nn.softmax(affinity, axis=-1).astype(value.dtype), value)


def neighbours(x: jax.Array, count: int) -> jax.Array:
    """[B, N, k] the nearest of N vectors [B, N, C] to each of them, itself the first."""
    x = jax.lax.stop_gradient(x)
    distance = ((x[:, :, None] - x[:, None]) ** 2).sum(axis=-1)
    return jax.lax.top_k(-distance, min(count, x.shape[1]))[1]


class Relation(nn.Module):
    """Sums up a's own vectors as they relate to b's: [B, N, C] twice -> [B, N, C].

    relu(BatchNorm) of both, then softmax(theta(a) phi(b)^T) g(a), brought back to C channels and
    added to a. The values are a's, as published, so that a and b have equally many vectors.

    Attributes:
        normalised: Whether it is added to the normalised a or to a as it was given.
    """

    normalised: bool
    dtype: DType | None = None

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array | None = None, train: bool = False) -> jax.Array:
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")
        dense = partial(nn.Dense, kernel_init=LINEAR, dtype=self.dtype)
        half = a.shape[-1] // 2
        fa = nn.relu(norm(a))
        fb = fa if b is None else nn.relu(norm(b))
        query, key = dense(half, name="theta")(fa), dense(half, name="phi")(fb)
        mixed = attended(query, key, dense(half, name="g")(fa))
        return (fa if self.normalised else a) + dense(a.shape[-1], name="back")(mixed)


class EdgeConv(nn.Module):
    """A layer of a graph of each vector's nearest: [B, N, C] -> [B, N, features].

    Wang et al., "Dynamic Graph CNN for Learning on Point Clouds": an edge is [x_j - x_i, x_i], and
    the largest of a vector's edges counts, channel by channel.
    """

    features: int
    neighbours: int
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        nearest = neighbours(x, self.neighbours)
        others = jax.vmap(lambda vectors, which: vectors[which])(x, nearest)
        own = jnp.broadcast_to(x[:, :, None], others.shape)
        edges = jnp.concatenate([others - own, own], axis=-1)
        conv = nn.Conv(
            self.features,
            (1, 1),
            use_bias=False,
            kernel_init=SMALL,
            dtype=self.dtype,
            name="conv",
        )
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")
        return nn.leaky_relu(norm(conv(edges)), 0.2).max(axis=2)


class PrototypeGraph(nn.Module):
    """Relates prototypes to each other, all and then the nearest three times: [B, N, C] -> same."""

    neighbours: int = 10
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = Relation(normalised=False, dtype=self.dtype, name="relation")(x, train=train)
        self.sow("intermediates", "related", x)
        for i in (1, 2, 3):
            layer = EdgeConv(x.shape[-1], self.neighbours, self.dtype, name=f"edge{i}")
            x = layer(x, train)
        return x


def relation_names(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """The published names of a `Relation`, (theirs, ours) as in `System.names`."""
    same = tuple((rf"{theirs}\.{name}", f"{ours}/{name}") for name in ("theta", "phi", "g"))
    return (*same, (rf"{theirs}\.W", f"{ours}/back"), (rf"{theirs}\.bn_relu\.0", f"{ours}/bn"))
