"""A decoder that finds boundaries at every scale and gives them to the branch that finds masks.

Layers that published checkpoints hold though nothing uses them are made with the variables:
`block2` and `block3` of `Pyramid`, `convFS1` of `Refine`, `pred3` to `pred5` of `Decoder`.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.resize import bilinear, logits_at
from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType

INIT = nn.initializers.normal(0.001)


class Boundary(nn.Module):
    """The boundary branch of one scale: logits [B, h, w, 1]."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, kernel_init=INIT, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        x = conv(self.features, (3, 3), padding=1, name="conv1")(norm(name="bn1")(x))
        x = norm(name="bn2")(nn.relu(x))
        x = nn.relu(conv(self.features, (3, 3), padding=1, name="conv2")(x))
        return conv(1, (1, 1), name="conv3")(x)


class GlobalConv(nn.Module):
    """A window of 7 x 7 by two pairs of thin convolutions: [B, h, w, C] -> [B, h, w, features]."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(nn.Conv, self.features, kernel_init=INIT, dtype=self.dtype)
        left = conv((7, 1), padding="SAME", name="conv_l1")(x)
        left = conv((1, 7), padding="SAME", name="conv_l2")(left)
        right = conv((1, 7), padding="SAME", name="conv_r1")(x)
        return left + conv((7, 1), padding="SAME", name="conv_r2")(right)


class Pyramid(nn.Module):
    """Two convolutions, the dilated one thrice: [B, h, w, C] -> [B, h, w, features]."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, self.features // 4, kernel_init=INIT, dtype=self.dtype)
        near = conv((1, 1), name="block0")(x)
        far = conv((3, 3), kernel_dilation=3, padding=3, name="block1")(x)
        if self.is_initializing():  # of checkpoints; nothing uses them
            conv((3, 3), name="block2")(x), conv((3, 3), name="block3")(x)
        joined = jnp.concatenate([near, far, far, far], axis=-1)
        return BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")(joined)


class Refine(nn.Module):
    """Joins a scale's features with the branch's of the next coarser one: [B, h, w, features]."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, coarse: jax.Array, train: bool) -> jax.Array:
        s = Pyramid(self.features, self.dtype, name="pdc")(x, train)
        if self.is_initializing():  # of checkpoints; nothing uses it
            nn.Conv(self.features, (3, 3), kernel_init=INIT, name="convFS1")(x)
        s = s + _residual(s, self.features, "convFS2", "convFS3", self.dtype)
        m = s + bilinear(coarse, s.shape[1:3])
        return m + _residual(m, self.features, "convMM1", "convMM2", self.dtype)


def _residual(
    x: jax.Array, features: int, first: str, second: str, dtype: DType | None
) -> jax.Array:
    """ReLU and 3x3 convolution, twice; the layers are the calling module's."""
    conv = partial(nn.Conv, features, (3, 3), padding=1, kernel_init=INIT, dtype=dtype)
    return conv(name=second)(nn.relu(conv(name=first)(nn.relu(x))))


class Decoder(nn.Module):
    """Boundaries at every scale, and the mask from coarse to fine, both from the gated features."""

    boundary: int
    features: int
    dtype: DType | None

    @nn.compact
    def __call__(
        self, scales: Sequence[jax.Array], size: Sequence[int], train: bool
    ) -> dict[str, jax.Array]:
        """Logits "mask" [B, H, W, 1] and "edges" [B, H, W, 5] float32: fused, then fine to coarse.

        Args:
            scales: Features [B, h, w, C] of the stages 2 to 5.
            size: (H, W) of the answer.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        conv = partial(nn.Conv, kernel_init=INIT, dtype=self.dtype)
        edges, joined = [], []
        for k, x in enumerate(scales, start=2):
            edge = Boundary(self.boundary, self.dtype, name=f"bdry{k}")(x, train)
            edges.append(_enlarge(edge, size))
            joined.append(jnp.concatenate([x, edge], axis=-1))
        edges = jnp.concatenate(edges, axis=-1)
        fused = conv(1, (3, 3), padding=1, name="concat")(edges).astype(jnp.float32)
        m = GlobalConv(self.features, self.dtype, name="GC")(joined[-1])
        m = m + _residual(m, self.features, "convG1", "convG2", self.dtype)
        for k in (4, 3, 2):
            if self.is_initializing():  # of checkpoints; nothing uses it
                conv(1, (3, 3), name=f"pred{k + 1}")(m)
            m = Refine(self.features, self.dtype, name=f"RF{k}")(joined[k - 2], m, train)
        mask = conv(1, (3, 3), padding=1, name="pred2")(nn.relu(m))
        return {"mask": _enlarge(mask, size), "edges": jnp.concatenate([fused, edges], axis=-1)}


def _enlarge(logits: jax.Array, size: Sequence[int]) -> jax.Array:
    return logits_at(logits, size)
