"""F2Net: a frame is matched with the video's first one and with itself, led by where its object is.

Liu, Yu, Wang, Zhou, "F2Net: Learning to Focus on the Foreground for Unsupervised Video Object
Segmentation", AAAI 2021. COSNet's encoder sees the first and the current frame. A centre branch
predicts the object's centre as a heat map, from the current frame and the previous frame's heat
map. Two attentions spread the current features, one led by the first frame and one by the current
one; a Gauss map around the centre should keep both near the object. A dynamic fusion weighs the two
results and the frame's own features, and a small head decides.

Where the released code and the paper differ (we follow the code, on which the parity case stands):
- The Gauss map is computed and not used: `prior=False`. So the centre branch helps by training the
  encoder and has no say in a mask at test, and our protocol leaves it out; `prior=True` is the
  paper's way, with the peak chosen by the motion clue, which the release leaves out too.
- The first frame's affinity has a row for each of *its* places, normalised over the current
  frame's. What comes out lies on the first frame's grid, holds the current frame's features, and is
  added to the current grid place by place.
- The fusion weighs channels; that of places is commented out (`fusion="spatial"`). How "both" are
  joined we chose: the mean of the two.
- The heat map adds sigmoid(b), which is never negative, and is a logit even so.
- The released test draws the previous heat map from the *annotation*. Ours is drawn from the mask
  that was predicted, and is zero at the first frame.

What its users stumble on: the scores of the released test come from a program that reads the
annotations, and the centre that it follows does not change its masks.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.inference import batched, fit, to_size
from jaxvos.layers.centre_branch import Decoder, Heat
from jaxvos.layers.centres import (
    focal,
    gauss_prior,
    heat_map,
    heat_size,
    in_pixels,
    peaks,
)
from jaxvos.layers.deeplab import ENCODER_NAMES, Encoder
from jaxvos.layers.fusion import KINDS, DynamicFusion
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.resize import logits_at
from jaxvos.layers.resnet import BatchNorm
from jaxvos.losses import balanced_bce_and_l1
from jaxvos.motion_clue import Track, choose
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (473, 473)
PEAKS = 5


def previous_heat(masks: jax.Array) -> jax.Array:
    """Heat maps [B, h, w, 1] that the network is given, from the masks [B, T, H, W, 1] of clips.

    That of the frame before the last; of a clip of one frame its own, as the released code has it
    for still images.
    """
    return heat_map(masks[:, max(masks.shape[1] - 2, 0)], heat_size(masks.shape[2:4]))


def affinity(a: jax.Array, b: jax.Array) -> jax.Array:
    """[N, M] float32: what each place of a [N, C] takes of b [M, C]; rows sum to 1."""
    scores = jnp.einsum("nc,mc->nm", a.astype(jnp.float32), b.astype(jnp.float32))
    return nn.softmax(scores * a.shape[1] ** -0.5, axis=1)


def diffuse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Features of b [M, C] spread to the places of a: [N, C]."""
    return jnp.einsum("nm,mc->nc", affinity(a, b).astype(b.dtype), b)


class Head(nn.Module):
    """Decides: fused features [B, h, w, C] -> logits [B, h, w, 1]."""

    features: int
    std: float
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        init = nn.initializers.normal(self.std)
        conv = partial(nn.Conv, kernel_init=init, dtype=self.dtype)
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="bn")
        x = nn.relu(norm(conv(self.features, (1, 1), name="conv")(x)))
        return conv(1, (1, 1), name="classifier")(x)


class F2Net(nn.Module):
    """The network.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 23, 3) is the published ResNet-101.
        width: The ResNet's stem channels (published: 64).
        branch: Channels of an ASPP branch (published: 512).
        features: Channels of the encoder's features, the decoder's and the heads' (256).
        cross: Channels that the decoder ends with (64).
        squeezed: Channels between the two convolutions of the fusion's weights (16).
        prior: Whether the Gauss map around the centre weighs both attentions (released: no).
        fusion: "channel" (released), "spatial" or "both".
        head_std: Standard deviation of first weights outside the encoder (published: 0.01).
        remat: Compute the encoder's insides and the affinities again for the gradient.
        scan: Compile equal residual blocks once (see `layers.resnet.Stage`).
        dtype: What the layers compute in; parameters, affinities and softmax stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    branch: int = 512
    features: int = 256
    cross: int = 64
    squeezed: int = 16
    prior: bool = False
    fusion: str = "channel"
    head_std: float = 0.01
    remat: bool = False
    scan: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        if self.fusion not in KINDS:
            raise ValueError(f"fusion is {self.fusion!r}. There are: {', '.join(KINDS)}.")
        std, dtype = self.head_std, self.dtype
        self.encoder = Encoder(
            self.depths,
            self.width,
            (1, 2, 1, 1),
            self.branch,
            self.features,
            self.remat,
            self.scan,
            dtype,
        )
        self.decoder = Decoder(self.features, self.cross, std, dtype)
        self.heat = Heat(self.features, std, dtype)
        self.weigh = DynamicFusion(self.fusion, self.squeezed, std, dtype)
        self.head = Head(self.features, std, dtype)

    def __call__(
        self, frames: jax.Array, previous: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Logits "current" and "encoder" [B, H, W, 1] and "heat" [B, h, w, 1], float32.

        All are of the clips' last frames; "encoder" is its answer alone.

        Args:
            frames: Prepared clips [B, T, H, W, 3]: first, previous and current frame of a video
                (the previous one is not looked at), or a still image.
            previous: Heat maps [B, h, w, 1] of the previous frames, as `heat_map` draws them.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        _check(frames, previous)
        size = frames.shape[2:4]
        reference = self.encoder.look(frames[:, 0], train)[0]
        current, stages = self.encoder.look(frames[:, -1], train)
        alone = self.encoder.classify(current)
        heat = self.heat(self.decoder(stages, train), previous)
        prior = None
        if self.prior:
            best = peaks(nn.sigmoid(heat), 1)[:, 0, 1:]
            prior = gauss_prior(in_pixels(best), size, current.shape[1:3])
        logits = self.match(reference, current, prior, train)
        current, encoder = (logits_at(x, size) for x in (logits, alone))
        return {"current": current, "encoder": encoder, "heat": heat}

    def encode(self, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features [B, h, w, C] and the decoder's [B, h', w', cross] of pictures [B, H, W, 3]."""
        features, stages = self.encoder.look(pictures, False)
        return features, self.decoder(stages, False)

    def centre(self, cross: jax.Array, previous: jax.Array) -> jax.Array:
        """Heat logits [B, h, w, 1] from the decoder's features and the previous heat maps."""
        return self.heat(cross, previous)

    def match(
        self,
        reference: jax.Array,
        current: jax.Array,
        prior: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Logits [B, h, w, 1] of features [B, h, w, C] with Gauss maps [B, h, w, 1], if any."""
        spread = jax.vmap(jax.checkpoint(diffuse) if self.remat else diffuse)
        own = _flat(current)
        led = [spread(_flat(x), own).reshape(current.shape) for x in (reference, current)]
        if prior is not None:  # a row of an affinity times a number is a place times that number
            led = [x * prior.astype(x.dtype) for x in led]
        return self.head(self.weigh((*led, current), train), train)


def _check(frames: jax.Array, previous: jax.Array) -> None:
    if frames.ndim != 5 or frames.shape[1] not in (1, 3):
        raise ValueError(
            f"F2Net reads clips [B, T, H, W, 3] of 3 frames (first, previous, current) or 1 (a "
            f"still image), not {frames.shape}."
        )
    expected = (frames.shape[0], *heat_size(frames.shape[2:4]), 1)
    if previous.shape != expected:
        raise ValueError(
            f"For clips {frames.shape} the previous heat maps are {expected}, not "
            f"{previous.shape}: heat_map(masks, heat_size((H, W))) draws them."
        )


def _flat(maps: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, places, C]."""
    return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """The video step's loss if the batch has "masks", else the image step's.

    Image steps train the encoder's own answer, at a tenth, and the centre branch; video steps the
    answer after matching and the centre branch.
    """
    video = "masks" in batch
    mask = batch["masks"][:, -1] if video else batch["mask"]
    centre = focal(outputs["heat"], heat_map(mask, outputs["heat"].shape[1:3]))
    if video:
        of_mask = balanced_bce_and_l1(outputs["current"], mask)
    else:
        of_mask = 0.1 * balanced_bce_and_l1(outputs["encoder"], mask)
    total = of_mask + centre
    return total, {"video_loss" if video else "image_loss": total, "centre_loss": centre}


@partial(jax.jit, static_argnames="model")
def _encode(model: F2Net, variables: Variables, pictures: jax.Array) -> tuple[jax.Array, ...]:
    """Features of pictures [B, H, W, 3] uint8; if the model has a use for it, the decoder's too."""
    features, cross = model.apply(variables, prepare(pictures), method="encode")
    return (features, cross) if model.prior else (features,)


@partial(jax.jit, static_argnames=("model", "size"))
def _match(
    model: F2Net, variables: Variables, a: jax.Array, b: jax.Array, *, size: tuple[int, int]
) -> jax.Array:
    """Probabilities [B, H, W] of features b [B, h, w, C] with first frames a, alike."""
    logits = model.apply(variables, a, b, method="match")
    return nn.sigmoid(logits_at(logits, size))[..., 0]


@partial(jax.jit, static_argnames="model")
def _peaks(model: F2Net, variables: Variables, cross: jax.Array, previous: jax.Array) -> jax.Array:
    """Peaks [N, 3] of a frame with the decoder's features [h, w, cross]."""
    heat = model.apply(variables, cross[None], previous, method="centre")
    return peaks(nn.sigmoid(heat), PEAKS)[0]


@partial(jax.jit, static_argnames=("model", "size"))
def _match_around(
    model: F2Net,
    variables: Variables,
    a: jax.Array,
    b: jax.Array,
    place: jax.Array,
    *,
    size: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Probabilities [H, W] of a frame around a place of its heat map, and its own heat map."""
    prior = gauss_prior(in_pixels(place)[None], size, b.shape[:2])
    logits = model.apply(variables, a[None], b[None], prior, method="match")
    scores = nn.sigmoid(logits_at(logits, size))
    return scores[0, ..., 0], heat_map(scores > 0.5, heat_size(size))


def segmenter(
    model: F2Net,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    batch: int = 1,
    motion: bool = True,
) -> Segmenter:
    """Segments each frame by matching it with the video's first one and with itself.

    As released (`prior=False`) frames do not depend on each other. With the prior each frame's
    centre is carried to the next one, and so is the heat map of its predicted mask; that a frame
    with an empty mask counts as hidden, and adds no centre, is our choice. No annotation is read.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to, without regard to their aspect, as released.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
        motion: With the prior: whether the motion clue chooses the peak; else the highest is taken.
    """
    size = tuple(size)
    encode = partial(_encode, model, variables)
    match = partial(_match, model, variables, size=size)
    find = partial(_peaks, model, variables)
    match_around = partial(_match_around, model, variables, size=size)

    def apart(encoded: Iterator[tuple[jax.Array, ...]]) -> Iterator[jax.Array]:
        first = None

        def pairs() -> Iterator[tuple[jax.Array, jax.Array]]:
            nonlocal first
            for (features,) in encoded:
                first = features if first is None else first
                yield first, features

        return batched(match, pairs(), batch=batch)

    def following(encoded: Iterator[tuple[jax.Array, ...]]) -> Iterator[np.ndarray]:
        first, heat, track = None, jnp.zeros((1, *heat_size(size), 1)), Track()
        for features, cross in encoded:
            first = features if first is None else first
            place = choose(np.asarray(find(cross, heat)), track if motion else None)
            scores, heat = match_around(first, features, jnp.asarray(place))
            scores = np.asarray(scores)
            seen = bool((scores > 0.5).any())
            track = (
                Track((*track.centres, place)[-6:])
                if seen
                else track._replace(hidden=track.hidden + 1)
            )
            yield scores

    def segment(video: Video) -> Iterator[np.ndarray]:
        frames = video.frames
        encoded = batched(encode, (fit(f, size) for f in frames), batch=batch)
        for t, scores in enumerate((following if model.prior else apart)(encoded)):
            yield to_size(scores, frames[t].shape[:2])

    return segment


NAMES = (
    *ENCODER_NAMES,
    (r"upsample\.(up[1-4])\.u_skip", r"decoder/\1/skip_conv"),
    (r"upsample\.(up[1-4])\.bn1", r"decoder/\1/skip_bn"),
    (r"upsample\.(up[2-4])\.up_conv", r"decoder/\1/up_conv"),
    (r"upsample\.(up[2-4])\.bn2", r"decoder/\1/up_bn"),
    (r"upsample\.up4\.cross_conv", r"decoder/cross_conv"),
    (r"upsample\.up4\.bn5", r"decoder/cross_bn"),
    (r"fc\.0", r"heat/conv"),
    (r"fc\.2", r"heat/classifier"),
    (r"motion_conv_([wb])", r"heat/motion_\1"),
    (r"channel_attention_(\w+)", r"weigh/channel_\1"),
    (r"spatial_attention_conv", r"weigh/spatial_conv"),
    (r"cls\.0", r"head/conv"),
    (r"cls\.1", r"head/bn"),
    (r"cls\.3", r"head/classifier"),
)

SYSTEM = System(
    title="F2Net (Liu et al., AAAI 2021): attention to the first frame, led by a centre",
    model=F2Net,
    inputs={"frames": prepare, "masks": previous_heat},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="encoder/resnet",
    facts=Facts(
        needs="frames",
        trained="DAVIS-2016, MSRA10K",
        reported="83.1 / 84.4 without CRF",
        error="1.2e-5 (46)",
    ),
    shapes=lambda model: {"frames": (1, 3, 33, 49, 3), "masks": (1, 3, 33, 49, 1)},
)
