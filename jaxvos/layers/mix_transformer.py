"""Mix Transformers, SegFormer's encoders (Xie et al., NeurIPS 2021): attention at four scales.

A stage cuts its input into overlapping patches by a strided convolution. In its blocks every place
asks all others; their keys and values come from a map made smaller by another one, so that the cost
grows with the picture's area times a fourth of it at most. No position is encoded: the depthwise
convolution between a block's two linear layers tells the places apart.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.typing import DType

MULTIPLES = (1, 2, 5, 8)
"""A stage's heads, and its channels in units of the first stage's."""
REDUCTIONS = (8, 4, 2, 1)
"""How much smaller, in each direction, is the map of a stage's keys and values."""
INIT = nn.initializers.normal(0.02)

# The released encoders are built with this, whatever their configuration says.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class Attention(nn.Module):
    """Attention of all places to a smaller map of them: [B, h, w, C] -> [B, h, w, C].

    Attributes:
        heads: Into how many parts the channels are split.
        reduction: Side of the patches that become one key and value each.
    """

    heads: int
    reduction: int
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        linear = partial(nn.Dense, channels, kernel_init=INIT, dtype=self.dtype)
        split = lambda y: y.reshape(len(y), -1, self.heads, channels // self.heads)  # noqa: E731
        query, few = split(linear(name="query")(x)), x
        if self.reduction > 1:
            side = (self.reduction,) * 2
            fewer = nn.Conv(
                channels, side, side, "VALID", kernel_init=INIT, dtype=self.dtype, name="sr"
            )
            few = LayerNorm(dtype=self.dtype, name="layer_norm")(fewer(x))
        key, value = (split(linear(name=name)(few)) for name in ("key", "value"))
        at_least = jnp.promote_types(query.dtype, jnp.float32)
        query, key = query.astype(at_least), key.astype(at_least)
        affinity = jnp.einsum("bqhc,bkhc->bhqk", query, key) / np.sqrt(channels // self.heads)
        shares = nn.softmax(affinity, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", shares, value).reshape(x.shape)
        return linear(name="dense")(mixed)


class MixFFN(nn.Module):
    """Linear, depthwise 3x3, GELU, linear, four times as wide inside: as wide as x outside."""

    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        linear = partial(nn.Dense, kernel_init=INIT, dtype=self.dtype)
        y = linear(4 * channels, name="dense1")(x)
        y = nn.Conv(
            4 * channels,
            (3, 3),
            padding=1,
            feature_group_count=4 * channels,
            kernel_init=INIT,
            dtype=self.dtype,
            name="dwconv",
        )(y)
        return linear(channels, name="dense2")(nn.gelu(y, approximate=False))


class Block(nn.Module):
    """Attention, then a mix FFN, each after a LayerNorm and added: [B, h, w, C] -> the same.

    Attributes:
        drop: How likely in training what would be added to a picture's map is left out; what is
            left is scaled up for it. Drawn by "dropout".
    """

    heads: int
    reduction: int
    drop: float = 0.0
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = partial(LayerNorm, dtype=self.dtype)
        path = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train, name="path")
        attend = Attention(self.heads, self.reduction, self.dtype, name="attention")
        x = x + path(attend(norm(name="layer_norm_1")(x)))
        return x + path(MixFFN(self.dtype, name="mlp")(norm(name="layer_norm_2")(x)))


class MixTransformer(nn.Module):
    """Pictures [B, H, W, 3] -> the maps of all four stages, at 1/4, 1/8, 1/16 and 1/32, a tuple.

    Attributes:
        depths: Blocks a stage; (2, 2, 2, 2) is MiT-b0 and b1, (3, 4, 6, 3) b2.
        width: Channels of the first stage: 64, or b0's 32.
        drop: `Block.drop` of the last block; it grows evenly from 0 at the first one.
        remat: Keep only the blocks' inputs for the gradient and compute the insides again.
    """

    depths: Sequence[int] = (2, 2, 2, 2)
    width: int = 64
    drop: float = 0.1
    remat: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        if min(x.shape[1:3]) < 29:  # whose map at 1/4 has 8 rows, one patch of keys and values
            raise ValueError(f"Pictures for a MixTransformer are at least 29 x 29, not {x.shape}.")
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        drops = iter(np.linspace(0, self.drop, sum(self.depths)).tolist())
        stages = []
        for i, (depth, times) in enumerate(zip(self.depths, MULTIPLES, strict=True)):
            side, stride = (3, 2) if i else (7, 4)
            cut = nn.Conv(
                times * self.width,
                (side, side),
                stride,
                side // 2,
                kernel_init=INIT,
                dtype=self.dtype,
                name=f"patch{i}",
            )
            x = LayerNorm(dtype=self.dtype, name=f"patch_norm{i}")(cut(x))
            for j in range(depth):
                each = block(times, REDUCTIONS[i], next(drops), self.dtype, name=f"block{i}_{j}")
                x = each(x, train)
            x = LayerNorm(dtype=self.dtype, name=f"norm{i}")(x)
            stages.append(x)
        return tuple(stages)


NAMES = (
    (r"patch_embeddings\.(\d)\.proj", r"patch\1"),
    (r"patch_embeddings\.(\d)\.layer_norm", r"patch_norm\1"),
    (r"block\.(\d)\.(\d+)\.attention\.(?:self|output)\.(\w+)", r"block\1_\2/attention/\3"),
    (r"block\.(\d)\.(\d+)\.mlp\.dwconv\.dwconv", r"block\1_\2/mlp/dwconv"),
    (r"block\.(\d)\.(\d+)\.mlp\.(dense\d)", r"block\1_\2/mlp/\3"),
    (r"block\.(\d)\.(\d+)\.(layer_norm_\d)", r"block\1_\2/\3"),
    (r"layer_norm\.(\d)", r"norm\1"),
)
"""Published modules below a SegFormer's `encoder` -> modules of `MixTransformer`."""
