"""Attention by prototypes: to other frames, and of two modalities to each other."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.layers.gated_decoder import ConvNorm, conv
from jaxvos.layers.prototypes import (
    PrototypeGraph,
    Relation,
    attended,
    correlation_maps,
    prototypes,
)
from jaxvos.typing import DType


class InterFrame(nn.Module):
    """Inter-frame attention: a frame's features, said by the prototypes of the references."""

    squeezed: int
    channels: int
    dtype: DType | None

    def setup(self) -> None:
        self.key = conv(self.squeezed, 1, self.dtype)
        self.fuse = ConvNorm(self.channels, 1, dtype=self.dtype)

    def remember(self, references: jax.Array) -> jax.Array:
        """Prototypes [B, N * C, C] of references' features [B, N, h, w, 8 * width]."""
        batch, count = references.shape[:2]
        keys = prototypes(self.key(references.reshape(-1, *references.shape[2:])))
        return keys.reshape(batch, count * keys.shape[1], keys.shape[2])

    def __call__(self, x: jax.Array, query: jax.Array, keys: jax.Array, train: bool) -> jax.Array:
        """The features x anew; `query` are they squeezed, `keys` may be those of a batch of 1."""
        vectors = prototypes(query)
        self.sow("intermediates", "query", vectors)
        keys = jnp.broadcast_to(keys, (len(x), *keys.shape[1:]))
        found = attended(vectors / np.sqrt(vectors.shape[-1]), keys, keys)
        maps = correlation_maps(query, found)
        self.sow("intermediates", "maps", maps)
        return self.fuse(jnp.concatenate([x, maps.astype(x.dtype)], axis=-1), train)


class Modality(nn.Module):
    """One modality's part of the inter-modality attention."""

    channels: int
    neighbours: int
    dtype: DType | None

    def setup(self) -> None:
        self.graph = PrototypeGraph(self.neighbours, self.dtype)
        self.fuse = ConvNorm(self.channels, 1, dtype=self.dtype)

    def maps(self, squeezed: jax.Array, train: bool) -> jax.Array:
        """Where the related prototypes of maps [B, h, w, C] are found in them: the same shape."""
        vectors = prototypes(squeezed)
        related = self.graph(vectors, train)
        maps = correlation_maps(squeezed, related.astype(vectors.dtype))
        for name, value in (("own", vectors), ("related", related), ("maps", maps)):
            self.sow("intermediates", name, value)
        return maps

    def fused(self, x: jax.Array, maps: jax.Array, train: bool) -> jax.Array:
        """The features x [B, h, w, 8 * width] anew, with what was found."""
        return self.fuse(jnp.concatenate([x, maps.astype(x.dtype)], axis=-1), train)


class InterModality(nn.Module):
    """Inter-modality attention; that of pictures `alone` is the pretraining's."""

    channels: int
    neighbours: int
    both: bool
    dtype: DType | None

    def setup(self) -> None:
        self.rgb = Modality(self.channels, self.neighbours, self.dtype)
        if self.both:
            self.flow = Modality(self.channels, self.neighbours, self.dtype)
            self.can1 = Relation(normalised=True, dtype=self.dtype)
            self.can2 = Relation(normalised=True, dtype=self.dtype)

    def __call__(
        self, features: Sequence[jax.Array], squeezed: Sequence[jax.Array], train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Both modalities' features anew, [B, h, w, 8 * width]; `squeezed` are they squeezed."""
        streams = (self.rgb, self.flow)
        maps = [m.maps(c, train) for m, c in zip(streams, squeezed, strict=True)]
        rgb, flow = (m.reshape(len(m), -1, m.shape[-1]) for m in maps)
        refined = self.can1(rgb, flow, train), self.can2(flow, rgb, train)
        refined = [r.reshape(maps[0].shape) for r in refined]
        self.sow("intermediates", "refined", refined)
        rgb, flow = (
            m.fused(f, r, train) for m, f, r in zip(streams, features, refined, strict=True)
        )
        return rgb, flow

    def alone(self, features: jax.Array, squeezed: jax.Array, train: bool) -> jax.Array:
        """The pictures' features anew."""
        return self.rgb.fused(features, self.rgb.maps(squeezed, train), train)
