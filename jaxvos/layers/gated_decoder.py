"""A decoder from coarse to fine, whose first answer gates all finer features; and its parts.

Layers have biases before BatchNorm, and small first weights.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import BatchNorm
from jaxvos.typing import DType

DILATIONS = (6, 12, 18)
SMALL = nn.initializers.normal(0.01)

resize = partial(bilinear, align_corners=True)


def conv(features: int, side: int, dtype: DType | None, name: str | None = None) -> nn.Conv:
    return nn.Conv(
        features, (side, side), padding=side // 2, kernel_init=SMALL, dtype=dtype, name=name
    )


class ConvNorm(nn.Module):
    """A convolution with bias, BatchNorm, ReLU: [B, h, w, C] -> [B, h, w, features]."""

    features: int
    side: int = 3
    dilation: int = 1
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.side, self.side),
            kernel_dilation=self.dilation,
            padding=self.dilation * (self.side // 2),
            kernel_init=SMALL,
            dtype=self.dtype,
            name="conv",
        )(x)
        return nn.relu(
            BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")(x),
        )


class Residual(nn.Module):
    """A residual block and a layer that narrows: [B, h, w, C] -> [B, h, w, features]."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = ConvNorm(x.shape[-1], dtype=self.dtype, name="layer1")(x, train)
        x = nn.relu(x + conv(x.shape[-1], 3, self.dtype, "layer2")(y))
        return ConvNorm(self.features, dtype=self.dtype, name="layer3")(x, train)


class Halve(nn.Module):
    """Halves the size: [B, h, w, C] -> [B, h / 2, w / 2, features]."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = conv(self.features, 1, self.dtype, "narrow")(x)
        for name in ("layer1", "layer2"):
            x = ConvNorm(self.features, dtype=self.dtype, name=name)(x, train)
        return x


class ASPP(nn.Module):
    """Looks at maps [B, h, w, C] at several scales, and at their mean; the size stays."""

    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        layer = partial(ConvNorm, x.shape[-1], dtype=self.dtype)
        branches = [layer(1, name="point")(x, train)]
        branches += [layer(dilation=d, name=f"d{d}")(x, train) for d in DILATIONS]
        mean = layer(1, name="pooled")(x.mean(axis=(1, 2), keepdims=True), train)
        branches.append(jnp.broadcast_to(mean, branches[0].shape))
        return layer(1, name="join")(jnp.concatenate(branches, axis=-1), train)


class Refine(nn.Module):
    """A finer answer, from low features [B, H, W, C], the coarsest one and the features so far."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(
        self, low: jax.Array, gate: jax.Array, x: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        low = conv(2 * self.features, 1, self.dtype, "compress")(low)
        gate, x = (resize(m, low.shape[1:3]).astype(low.dtype) for m in (gate, x))
        x = jnp.concatenate([low * gate, x], axis=-1)
        x = ConvNorm(3 * self.features, dtype=self.dtype, name="layer1")(x, train)
        x = ConvNorm(self.features, dtype=self.dtype, name="layer2")(x, train)
        return x, conv(1, 1, self.dtype, "predict")(x)


class Decoder(nn.Module):
    """Maps at 1/8, 1/16, 1/32 and f1, f2, f3 -> probabilities [B, H, W, 4], the coarsest first."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(
        self, scales: Sequence[jax.Array], low: Sequence[jax.Array], train: bool
    ) -> jax.Array:
        x, *others = reversed(scales)
        for name, finer in zip(("merge56", "merge45"), others, strict=True):
            x = jnp.concatenate([finer, resize(x, finer.shape[1:3])], axis=-1)
            x = Residual(finer.shape[-1], self.dtype, name=name)(x, train)
            self.sow("intermediates", name + "_out", x)
        x = conv(self.features, 1, self.dtype, "narrow")(x)
        self.sow("intermediates", "narrowed", x)
        logits = [conv(1, 1, self.dtype, "predict4")(x)]
        gate = nn.sigmoid(_wide(logits[0]))
        for level, maps in zip((3, 2, 1), reversed(low), strict=True):
            refine = Refine(self.features, self.dtype, name=f"refine{level}")
            x, answer = refine(maps, gate, x, train)
            logits.append(answer)
        self.sow("intermediates", "logits", logits)
        answers = [resize(nn.sigmoid(_wide(m)), low[0].shape[1:3]) for m in logits]
        return jnp.concatenate(answers, axis=-1)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# The published names of what is above: (theirs, ours), regular expressions as `System.names`.


def layer_names(theirs: str, ours: str, first: int = 0) -> tuple[tuple[str, str], ...]:
    """Of a `ConvNorm` whose convolution and BatchNorm are numbered one after the other."""
    return (
        (rf"{theirs}\.{first}", f"{ours}/conv"),
        (rf"{theirs}\.{first + 1}", f"{ours}/bn"),
    )


def residual_names(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Of a `Residual`."""
    return (
        *layer_names(rf"{theirs}\.conv1", f"{ours}/layer1"),
        (rf"{theirs}\.conv1\.3", f"{ours}/layer2"),
        *layer_names(rf"{theirs}\.conv2", f"{ours}/layer3"),
    )


def aspp_names(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Of an `ASPP`."""
    parts = {
        "1x1_1": "point",
        "3x3_1": "d6",
        "3x3_2": "d12",
        "3x3_3": "d18",
        "1x1_2": "pooled",
        "1x1_3": "join",
    }
    return tuple(
        (rf"{theirs}\.{prefix}conv_{part}", f"{ours}/{name}/{kind}")
        for part, name in parts.items()
        for prefix, kind in (("", "conv"), ("bn_", "bn"))
    )


DECODER_NAMES = (
    *residual_names(r"rgb_merge_co_56", "decoder/merge56"),
    *residual_names(r"rgb_merge_co_45\.0", "decoder/merge45"),
    (r"rgb_merge_co_45\.1", "decoder/narrow"),
    (r"rgb_get_pred_4\.pred\.0", "decoder/predict4"),
    (r"rgb_refine_([123])\.cmprs", r"decoder/refine\1/compress"),
    *layer_names(r"rgb_refine_([123])\.merge_conv", r"decoder/refine\1/layer1"),
    *layer_names(r"rgb_refine_([123])\.merge_conv", r"decoder/refine\1/layer2", first=3),
    (r"rgb_refine_([123])\.pred\.pred\.0", r"decoder/refine\1/predict"),
)
"""Of a `Decoder` that is the network's `decoder`."""
