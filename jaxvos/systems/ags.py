"""AGS: where people look in a video, and the object that they look at.

Wang, Song, Zhao, Shen, Zhao, Hoi, Ling, "Learning Unsupervised Video Object Segmentation through
Visual Attention", CVPR 2019. Dynamic visual attention prediction (DVAP), a ConvLSTM over the
frames' features, says where eyes rest; attention-guided object segmentation (AGOS) looks at each
frame by itself, at several scales, and is led by that map. Both share one ResNet.

Where the released network and the paper differ (we follow the network, on which the parity case
stands):
- AGOS has three ASPP blocks, each narrower than the one before; the paper has one.
- The attention's logits are enlarged and then put through the sigmoid, once for the answer and
  once for the gate, which multiplies features by 1 + attention.
- Two channels of logits are enlarged, and the sigmoid of the second is the answer.
- The stride of the third stage is in the 3x3 convolution, unlike PDB-ConvLSTM's.
- Nothing is remembered beyond a clip of three frames, whatever the markers of its lists say.

The training network is not published, and which fixation measures its loss has is uncertain: ours
is CE - 0.1 (NSS + SIM + CC) against the continuous map and the fixations (`attention_terms`; KL is
measured too and counts for nothing). Frames whose map is all zero, where nobody's eyes were
recorded, count for none of these.

What its users stumble on:
- Training works with masks alone, and says so; the attention is then whatever helps the masks, and
  no prediction of eye movements.
- Peepholes tie the weights to one size of picture, 473 x 473 as published. For others they are
  resized, with a warning (`layers.peepholes`).
- Each map is stretched to 0..1, so that a frame without any object gets one all the same.
"""

import logging
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxvos.clip_protocol import clip_segmenter
from jaxvos.layers.peepholes import check_peepholes, fit_peepholes
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.psp_resnet import ConvNormReLU, PSPResNet, map_size, names_under
from jaxvos.layers.recurrent import ConvLSTM
from jaxvos.layers.resize import bilinear
from jaxvos.losses import cross_entropy
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables

CLIP = 3
SIZE = (473, 473)
# Dilations and side of the pooled windows of the three ASPP blocks.
SCALES = (((6, 12, 18, 24), 8), ((3, 6, 9, 12), 4), ((2, 4, 6, 8), 2))
METRIC_WEIGHT = 0.1
_LEAST = 1e-12  # variance of a map; below, it is taken for constant


def attention_size(picture: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the attention's maps for pictures (H, W), about a sixteenth."""
    h, w = (-(-n // 2) for n in map_size(picture))
    return h, w


class ASPP(nn.Module):
    """Looks at a map at several scales: [B, h, w, C] -> [B, h, w, features].

    Branches in the order in which they are joined: 1x1, a 3x3 for each dilation, and the means of
    windows of pool x pool places (smaller at the far edges), brought back to the map's size.
    """

    features: int
    dilations: Sequence[int]
    pool: int
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        block = partial(ConvNormReLU, self.features, dtype=self.dtype)
        branches = [block(kernel=1, name="point")(x, train)]
        self.sow("intermediates", "point_out", branches[0])
        for d in self.dilations:
            branches.append(block(dilation=d, name=f"d{d}")(x, train))
            self.sow("intermediates", f"d{d}_out", branches[-1])
        means = mean_windows(x, self.pool)
        self.sow("intermediates", "means", means)
        means = block(kernel=1, name="pooled")(means, train)
        branches.append(bilinear(means, x.shape[1:3], align_corners=True))
        self.sow("intermediates", "pooled_out", branches[-1])
        return block(kernel=1, name="fuse")(jnp.concatenate(branches, axis=-1), train)


def mean_windows(x: jax.Array, side: int) -> jax.Array:
    """Means of windows side x side of [B, h, w, C]; those over the edge are of what they hold."""
    edge = [(0, -n % side) for n in x.shape[1:3]]
    return nn.avg_pool(x, (side, side), (side, side), edge, count_include_pad=False)


class Attention(nn.Module):
    """DVAP: features [B, T, h, w, C] -> logits [B, T, h / 2, w / 2, 1] of where eyes rest."""

    widths: Sequence[int]
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        batch, time = x.shape[:2]
        x = x.reshape(-1, *x.shape[2:])
        for i, (width, d) in enumerate(zip(self.widths, (2, 4, 8), strict=True)):
            stride = 2 if i == 0 else 1
            conv = ConvNormReLU(
                width, stride=stride, dilation=d, dtype=self.dtype, name=f"conv{i + 1}"
            )
            x = conv(x, train)
            self.sow("intermediates", f"conv{i + 1}_out", x)
        x = x.reshape(batch, time, *x.shape[1:])
        check_peepholes(self, x.shape[2:4])
        lstm = ConvLSTM(
            self.widths[-1], dilation=2, peephole="shared", dtype=self.dtype, name="lstm"
        )
        states = lstm(x)
        self.sow("intermediates", "states", states)
        return nn.Conv(1, (1, 1), dtype=self.dtype, name="conv7")(states)


class AGS(nn.Module):
    """Clips [B, T, H, W, 3] -> logits "attention" and "saliency" [B, T, H, W, 1] float32.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 23, 3) is the published ResNet-101.
        width: The ResNet's stem channels (published: 64).
        widths: Channels of the three ASPP blocks (published: 256, 64, 32).
        attention: Channels of DVAP's three convolutions, the last ones' also the ConvLSTM's
            (published: 256, 128, 32).
        size: The pictures' size, which the peepholes depend on.
        frozen: Whether BatchNorm keeps its statistics, as published; without PSPNet's weights to
            start from, False lets it learn.
        remat: Compute the ResNet's insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; gates and cell states stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    widths: Sequence[int] = (256, 64, 32)
    attention: Sequence[int] = (256, 128, 32)
    size: tuple[int, int] = SIZE
    frozen: bool = True
    remat: bool = False
    dtype: DType | None = None

    @nn.compact
    def __call__(self, frames: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        batch, time, *size = frames.shape[:4]
        learns = train and not self.frozen
        x = PSPResNet(
            self.depths,
            self.width,
            stride_in_3x3=True,
            remat=self.remat,
            dtype=self.dtype,
            name="resnet",
        )(frames.reshape(-1, *frames.shape[2:]), learns)
        small = x.shape[1:3]
        shared = x.reshape(batch, time, *x.shape[1:])
        looks = Attention(self.attention, self.dtype, name="dvap")(shared, learns)
        self.sow("intermediates", "attention_logits", looks)
        for i, (width, (dilations, pool)) in enumerate(zip(self.widths, SCALES, strict=True), 1):
            x = ASPP(width, dilations, pool, self.dtype, name=f"aspp{i}")(x, learns)
            self.sow("intermediates", f"aspp{i}_out", x)
        looks = looks.astype(jnp.float32)
        gate = nn.sigmoid(bilinear(looks, small, align_corners=True))
        self.sow("intermediates", "gate", gate)
        led = x.reshape(batch, time, *x.shape[1:]) * (1 + gate.astype(x.dtype))
        self.sow("intermediates", "gated", led)
        logits = nn.Conv(2, (1, 1), dtype=self.dtype, name="conv6")(led)
        self.sow("intermediates", "logits", logits)
        logits = logits[..., 1:].astype(jnp.float32)
        return {
            "attention": bilinear(looks, size, align_corners=True),
            "saliency": bilinear(logits, size, align_corners=True),
        }


# The measures of an attention map, of logits [B, T, H, W, 1] against a map of the same shape in
# 0..1 or fixations in {0, 1}: one number a frame, [B, T].


def attention_ce(logits: jax.Array, fixation_map: jax.Array) -> jax.Array:
    """Binary cross entropy, the mean over the pixels."""
    return optax.sigmoid_binary_cross_entropy(logits, fixation_map).mean(axis=(2, 3, 4))


def kullback_leibler(logits: jax.Array, fixation_map: jax.Array) -> jax.Array:
    """KL divergence from the map to the attention, both of sum 1."""
    p = _shares(fixation_map)
    log_a = nn.log_sigmoid(logits)
    log_a = log_a - jax.nn.logsumexp(log_a, axis=(2, 3, 4), keepdims=True)
    return jnp.where(p > 0, p * (jnp.log(jnp.where(p > 0, p, 1)) - log_a), 0).sum(axis=(2, 3, 4))


def correlation(logits: jax.Array, fixation_map: jax.Array) -> jax.Array:
    """CC, Pearson's; 0 where either map is constant."""
    return (_standard(nn.sigmoid(logits)) * _standard(fixation_map)).mean(axis=(2, 3, 4))


def similarity(logits: jax.Array, fixation_map: jax.Array) -> jax.Array:
    """SIM: the sum of the smaller of both maps of sum 1."""
    return jnp.minimum(_shares(nn.sigmoid(logits)), _shares(fixation_map)).sum(axis=(2, 3, 4))


def scanpath_saliency(logits: jax.Array, fixations: jax.Array) -> jax.Array:
    """NSS: the mean of the standardised attention over the fixations; 0 where there are none."""
    count = jnp.maximum(fixations.sum(axis=(2, 3, 4)), 1)
    return (_standard(nn.sigmoid(logits)) * fixations).sum(axis=(2, 3, 4)) / count


def _shares(maps: jax.Array) -> jax.Array:
    total = maps.sum(axis=(2, 3, 4), keepdims=True)
    return maps / jnp.where(total > 0, total, 1)


def _standard(maps: jax.Array) -> jax.Array:
    """Each frame with mean 0 and variance 1; a constant one is 0."""
    centred = maps - maps.mean(axis=(2, 3, 4), keepdims=True)
    variance = jnp.square(centred).mean(axis=(2, 3, 4), keepdims=True)
    return centred / jnp.sqrt(jnp.maximum(variance, _LEAST))


def attention_terms(logits: jax.Array, batch: Batch) -> Metrics:
    """The measures by name, each the mean over the frames that have what it is measured against.

    "nss" is there if the batch has "fixations". Frames whose map is all zero count for nothing, as
    do those without fixations for "nss"; where no frame is left the value is 0.
    """
    target = jnp.broadcast_to(batch["fixation_map"], logits.shape)
    seen = (target > 0).any(axis=(2, 3, 4))
    measures = {
        "ce": attention_ce,
        "kl": kullback_leibler,
        "cc": correlation,
        "sim": similarity,
    }
    terms = {name: _mean_of(each(logits, target), seen) for name, each in measures.items()}
    if "fixations" in batch:
        points = jnp.broadcast_to(batch["fixations"], logits.shape)
        hit = seen & (points > 0).any(axis=(2, 3, 4))
        terms["nss"] = _mean_of(scanpath_saliency(logits, points), hit)
    return terms | {"frames": seen.sum().astype(jnp.float32)}


def _mean_of(values: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, values, 0).sum() / jnp.maximum(kept.sum(), 1)


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """L_AGOS on what masks the batch has, plus L_DVAP on what fixations it has.

    "masks" [B, T, H, W, 1], or "mask" [B, H, W, 1] of a still image's copies; "fixation_map"
    [B, T, H, W, 1] in 0..1 and "fixations" in {0, 1} of the same shape. Clips with fixations alone
    train DVAP, as in the paper; masks alone train everything by the masks.
    """
    total, metrics = jnp.zeros(()), {}
    still = "mask" in batch
    if still or "masks" in batch:
        logits = outputs["saliency"]
        masks = jnp.broadcast_to(batch["mask"][:, None], logits.shape) if still else batch["masks"]
        total += cross_entropy(logits, masks)
    elif "fixation_map" not in batch:
        raise ValueError(f"AGS learns from masks or fixation_map; the batch has {sorted(batch)}.")
    if "fixation_map" in batch:
        terms = attention_terms(outputs["attention"], batch)
        metrics = {f"attention_{name}": value for name, value in terms.items()}
        rewards = terms["sim"] + terms["cc"] + terms.get("nss", 0.0)
        total += terms["ce"] - METRIC_WEIGHT * rewards
    else:
        logging.getLogger(__name__).warning(
            "AGS: no fixation data in these %s steps: its attention learns from the masks alone.",
            "image" if still else "video",
        )
    return total, {"image_loss" if still else "video_loss": total} | metrics


@partial(jax.jit, static_argnames="model")
def _saliency(model: AGS, variables: Variables, clips: jax.Array) -> jax.Array:
    """Probabilities [B, T, H, W] of clips [B, T, H, W, 3] uint8."""
    return nn.sigmoid(model.apply(variables, prepare(clips))["saliency"])[..., 0]


def segmenter(
    model: AGS,
    variables: Variables,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    stretch: bool = True,
) -> Segmenter:
    """Segments a video in clips of three that do not overlap (see `clip_protocol`).

    Args:
        model: The network.
        variables: Its weights. Peepholes of another size are resized, with a warning.
        size: What frames are resized to, without regard to their aspect; the model's by default.
        batch: Clips a compiled call. The last one is padded, so any length compiles once.
        stretch: Whether each map is stretched to 0..1, as released.
    """
    size = tuple(size or model.size)
    fitting = fit_peepholes(variables, attention_size(size))
    saliency = partial(_saliency, model, fitting)
    return clip_segmenter(saliency, length=CLIP, size=size, batch=batch, stretch=stretch)


_BLOCKS = (("conv5_3", "aspp1", 256), ("conv5_4", "aspp2", 64), ("conv5_8", "aspp3", 32))

NAMES = (
    *names_under("resnet"),
    *(
        (rf"{theirs}_{branch}_conv{suffix}", rf"{ours}/{module}/{part}")
        for theirs, ours, width in _BLOCKS
        for branch, module in (("d(\\d+)", r"d\1"), (width, "point"), ("pool", "pooled"))
        for suffix, part in (("", "conv"), ("/bn", "bn"))
    ),
    *(
        pair
        for theirs, ours in (("conv5_4", "aspp1"), ("conv5_5", "aspp2"), ("conv5_8", "aspp3"))
        for pair in ((rf"{theirs}_?", f"{ours}/fuse/conv"), (rf"{theirs}/bn_?", f"{ours}/fuse/bn"))
    ),
    *(
        (rf"conv5_{n + 4}_att{suffix}", f"dvap/conv{n}/{part}")
        for n in (1, 2, 3)
        for suffix, part in (("", "conv"), ("/bn", "bn"))
    ),
    (r"encode1", r"dvap/lstm"),
    (r"conv7", r"dvap/conv7"),
    (r"conv6_?", r"conv6"),
)

SYSTEM = System(
    title="AGS (Wang et al., CVPR 2019): attention as predicted from eye movements leads the way",
    model=AGS,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="resnet",
    facts=Facts(
        needs="frames",
        trained="eye movements, DUT-OMRON, PASCAL-S",
        reported="79.7 / 77.4 with CRF",
        error="3.0e-6 (61)",
    ),
    shapes=lambda model: {"frames": (1, 2, *model.size, 3)},
)
