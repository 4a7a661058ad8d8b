"""DFNet: frames of a video are described by a few features that all of them share.

Zhen, Li, Zhou, Shang, Feng, Fang, Quan, "Learning Discriminative Feature with CRF for Unsupervised
Video Object Segmentation", ECCV 2020. Every place of N frames is scored by K groups of weights; a
group's discriminative feature is the mean of all places, weighed by its scores. Each place then is
described anew as a mixture of the K features, the mixture is smoothed by a CRF inside the network,
and a head decides from the old and the new description.

No code was released: this follows the paper as far as it is specific, and the parity case stands on
definitions, not on a release. What is ours:
- The scoring weights move towards the features that they find, with momentum 0.9, and take no
  gradient; K = 16. The scores are one softmax over all places of all frames together.
- The CRF's widths, weights and three iterations; its colours are the normalised picture's, averaged
  down to the features' grid. It is unrolled, so that the gradient passes through it.
- The gates end in a sigmoid, as co-attention's do. There is no activation between the head's
  BatchNorm and its last convolution; `head_relu` puts one there.
- At test a frame is segmented together with frames that are spread over its video.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxvos.inference import batched, fit, to_size
from jaxvos.layers.deeplab_v3 import DeepLabV3
from jaxvos.layers.mean_field import CRF, mean_field
from jaxvos.layers.pixels import imagenet as prepare
from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import BatchNorm
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (473, 473)
# PyTorch's default for a linear layer: uniform within 1 / sqrt(inputs).
LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Discriminative(nn.Module):
    """The discriminative feature module, with the scoring weights as a moving mean.

    Attributes:
        groups: K.
        momentum: The share of the old weights that a training step leaves.
    """

    groups: int
    momentum: float

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Scores [B, N, h, w, K], summing up to 1 over a video's places, and features [B, K, C].

        Args:
            features: [B, N, h, w, C].
            train: Whether the weights move (after they were used).
        """
        wide = features.astype(jnp.float32)
        channels = wide.shape[-1]

        def drawn() -> jax.Array:
            draw = nn.initializers.normal(channels**-0.5)
            return draw(self.make_rng("params"), (channels, self.groups))

        weights = self.variable("batch_stats", "W", drawn)
        logits = wide @ weights.value
        scores = nn.softmax(logits, axis=(1, 2, 3))
        found = jnp.einsum("bnyxk,bnyxc->bkc", scores, wide)
        if train and not self.is_initializing():
            seen = lax.stop_gradient(found).mean(axis=0).T
            weights.value = self.momentum * weights.value + (1 - self.momentum) * seen
        return scores, found


class Attention(nn.Module):
    """How much each place resembles each discriminative feature: logits [B, N, h, w, K]."""

    @nn.compact
    def __call__(self, features: jax.Array, found: jax.Array) -> jax.Array:
        channels = features.shape[-1]
        weight = self.param("W_att", LINEAR_INIT, (channels, channels))
        wide = features.astype(jnp.float32)
        return jnp.einsum("bnyxc,cd,bkd->bnyxk", wide, weight, found)


class Head(nn.Module):
    """Decides from a new and an old description: logits [B, h, w, 1]."""

    features: int
    relu: bool
    dtype: DType | None

    @nn.compact
    def __call__(self, new: jax.Array, old: jax.Array, train: bool) -> jax.Array:
        conv = partial(nn.Conv, dtype=self.dtype)
        x = jnp.concatenate([new, old], axis=-1)
        x = conv(self.features, (3, 3), padding=1, use_bias=False, name="conv3")(x)
        x = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")(x)
        self.sow("intermediates", "normalised", x)
        return conv(1, (1, 1), name="conv1")(nn.relu(x) if self.relu else x)


class DFNet(nn.Module):
    """The network; logits [B, N, H, W, 1] float32 at the pictures' size.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 23, 3) is ResNet-101.
        width: The ResNet's stem channels (64 in every published ResNet).
        branch: Channels of an ASPP branch.
        rates: Dilations of the ASPP; DeepLab v3 has these at 1/8 of the size.
        features: c, channels of the features that are scored and described.
        groups: K, how many discriminative features a video has.
        momentum: Of the scoring weights.
        colour_weight, near_weight, reach, colours, near, iterations: Of the `CRF`.
        head_relu: Whether a ReLU follows the head's BatchNorm.
        remat: Compute the encoder's insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters, scores, attention and CRF stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    branch: int = 256
    rates: Sequence[int] = (12, 24, 36)
    features: int = 256
    groups: int = 16
    momentum: float = 0.9
    colour_weight: float = 1.5
    near_weight: float = 0.8
    reach: float = 4.0
    colours: float = 0.8
    near: float = 1.5
    iterations: int = 3
    head_relu: bool = False
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        self.encoder = DeepLabV3(
            self.depths, self.width, self.branch, self.rates, self.remat, self.dtype
        )
        self.proj = nn.Conv(self.features, (1, 1), dtype=self.dtype)
        self.dfm = Discriminative(self.groups, self.momentum)
        self.atm = Attention()
        self.gate_new = nn.Conv(1, (1, 1), dtype=self.dtype)
        self.gate_f = nn.Conv(1, (1, 1), dtype=self.dtype)
        self.head = Head(self.features, self.head_relu, self.dtype)

    def __call__(self, frames: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits "frames" [B, N, H, W, 1], and how many places the "scores" rest on, a number.

        Args:
            frames: Prepared pictures [B, N, H, W, 3] of B videos.
            train: Whether statistics and scoring weights are the batch's and move.
        """
        batch, count, *size = frames.shape[:-1]
        flat = frames.reshape(-1, *frames.shape[2:])
        features = self.encode(flat, train)
        features = features.reshape(batch, count, *features.shape[1:])
        scores, found = self.discriminate(features, train)
        guide = guides(frames, features.shape[2:4])
        logits = self.decide(features, found, guide, train).astype(jnp.float32)
        places = (1 / (scores**2).sum(axis=(1, 2, 3))).mean()
        return {"frames": bilinear(logits, size, align_corners=True), "scores": places}

    def encode(self, pictures: jax.Array, train: bool = False) -> jax.Array:
        """Features [B, h, w, c] of pictures [B, H, W, 3]."""
        return self.proj(self.encoder(pictures, train))

    def discriminate(self, features: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Scores [B, N, h, w, K] and discriminative features [B, K, c] of [B, N, h, w, c]."""
        return self.dfm(features, train)

    def attend(self, features: jax.Array, found: jax.Array, guide: jax.Array) -> jax.Array:
        """New descriptions [B, N, h, w, c]: each place's mixture of `found` [B, K, c]."""
        logits = self.atm(features, found)
        crf = CRF(
            self.colour_weight,
            self.near_weight,
            self.reach,
            self.colours,
            self.near,
            self.iterations,
        )

        # One frame of each video after the other: a kernel is [hw, hw].
        def smoothed(one: tuple[jax.Array, jax.Array]) -> jax.Array:
            return jax.vmap(lambda logits, guide: mean_field(logits, guide, crf)[-1])(*one)

        by_frame = jnp.moveaxis(logits, 1, 0), jnp.moveaxis(guide, 1, 0)
        attention = jnp.moveaxis(lax.map(jax.checkpoint(smoothed), by_frame), 0, 1)
        return jnp.einsum("bnyxk,bkc->bnyxc", attention, found).astype(features.dtype)

    def decide(
        self, features: jax.Array, found: jax.Array, guide: jax.Array, train: bool = False
    ) -> jax.Array:
        """Logits [B, N, h, w, 1].

        Args:
            features: [B, N, h, w, c].
            found: The videos' discriminative features [B, K, c].
            guide: Colours [B, N, h, w, 3] for the CRF.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        new = self.attend(features, found, guide)
        flat = (x.reshape(-1, *x.shape[2:]) for x in (new, features))
        logits = self.head(*self.gated(*flat), train)
        return logits.reshape(*features.shape[:-1], 1)

    def gated(self, new: jax.Array, old: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both descriptions [B, h, w, c] times their gates in (0, 1), one number a place."""
        return new * nn.sigmoid(self.gate_new(new)), old * nn.sigmoid(self.gate_f(old))


def guides(pictures: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Pictures [..., H, W, 3] averaged down to `size` (h, w), the corner pixels kept in place.

    The encoder's places lie on every eighth pixel from the first one on.
    """
    old = pictures.shape[-3:-1]
    scale = np.array([max(n - 1, 1) / max(m - 1, 1) for n, m in zip(size, old, strict=True)])
    flat = pictures.astype(jnp.float32).reshape(-1, *pictures.shape[-3:])
    shape = (len(flat), *size, flat.shape[-1])
    small = jax.image.scale_and_translate(
        flat, shape, (1, 2), jnp.float32(scale), jnp.float32(0.5 - 0.5 * scale), "linear"
    )
    return small.reshape(*pictures.shape[:-3], *shape[1:])


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Binary cross entropy, the mean over pixels and frames.

    A step on still images has one "mask" for all of a picture's copies. The metric "score_places"
    is how many places a group's scores rest on: near 1 the scoring weights have collapsed.
    """
    logits = outputs["frames"]
    masks = batch["masks"] if "masks" in batch else batch["mask"][:, None]
    total = optax.sigmoid_binary_cross_entropy(logits, jnp.broadcast_to(masks, logits.shape)).mean()
    kind = "video_loss" if "masks" in batch else "image_loss"
    return total, {kind: total, "score_places": outputs["scores"]}


@partial(jax.jit, static_argnames="model")
def _encode(model: DFNet, variables: Variables, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features [B, h, w, c] and guides [B, h, w, 3] of pictures [B, H, W, 3] uint8."""
    prepared = prepare(pictures)
    features = model.apply(variables, prepared, method="encode")
    return features, guides(prepared, features.shape[1:3])


@partial(jax.jit, static_argnames=("model", "size"))
def _decide(
    model: DFNet,
    variables: Variables,
    own: jax.Array,
    guide: jax.Array,
    others: jax.Array,
    *,
    size: tuple[int, int],
) -> jax.Array:
    """Probabilities [B, H, W] of frames [B, h, w, c] together with others [B, R, h, w, c]."""
    together = jnp.concatenate([own[:, None], others], axis=1)
    _, found = model.apply(variables, together, method="discriminate")
    logits = model.apply(variables, own[:, None], found, guide[:, None], method="decide")
    logits = bilinear(logits[:, 0].astype(jnp.float32), size, align_corners=True)
    return nn.sigmoid(logits)[..., 0]


def together_with(count: int, frames: int) -> list[list[int]]:
    """Which others each of `count` frames is segmented together with: `frames` - 1, or all others.

    `frames` are spread evenly over the video, and a frame takes the place of the nearest of them.
    """
    if frames < 1:
        raise ValueError(f"frames={frames}: a frame is segmented at least by itself.")
    spread = np.linspace(0, count - 1, min(frames, count)).round().astype(int)
    nearest = [int(np.abs(spread - t).argmin()) for t in range(count)]
    return [np.delete(spread, i).tolist() for i in nearest]


def segmenter(
    model: DFNet,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    frames: int = 5,
    batch: int = 1,
) -> Segmenter:
    """Segments each frame together with others that are spread evenly over its video.

    Every frame is encoded once; only the features of the spread ones are kept.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to, without regard to their aspect.
        frames: N, how many are described together; all of them in a shorter video.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
    """
    encode = partial(_encode, model, variables)
    decide = partial(_decide, model, variables, size=tuple(size))

    def segment(video: Video) -> Iterator[np.ndarray]:
        pictures = video.frames
        company = together_with(len(pictures), frames)
        spread = sorted({t for row in company for t in row})

        def encoded(indices: Iterable[int]) -> Iterator[tuple[jax.Array, jax.Array]]:
            return batched(encode, (fit(pictures[t], size) for t in indices), batch=batch)

        kept = dict(zip(spread, encoded(spread), strict=True))
        rest = encoded(t for t in range(len(pictures)) if t not in kept)

        def joined() -> Iterator[tuple[jax.Array, ...]]:
            for t, row in enumerate(company):
                own, guide = kept[t] if t in kept else next(rest)
                others = [kept[r][0] for r in row]
                yield own, guide, jnp.stack(others) if others else own[None][:0]

        for t, scores in enumerate(batched(decide, joined(), batch=batch)):
            yield to_size(scores, pictures[t].shape[:2])

    return segment


NAMES = (
    (r"(proj|dfm|atm|gate_new|gate_f)", r"\1"),
    (r"head\.(conv3|bn|conv1)", r"head/\1"),
)

SYSTEM = System(
    title="DFNet (Zhen et al., ECCV 2020): features that frames share, smoothed by a CRF",
    model=DFNet,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="encoder/resnet",
    facts=Facts(
        needs="frames",
        trained="MSRA10K, DUT-OMRON, DAVIS-2016",
        reported="83.4 / 81.8",
        error="2.4e-6 (23), never released",
    ),
    shapes=lambda model: {"frames": (1, 2, 33, 49, 3)},
)
