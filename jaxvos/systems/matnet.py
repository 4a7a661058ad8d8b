"""MATNet: motion says where to look, stage by stage, while the features are being made.

Zhou, Wang, Zhou, Yao, Li, Shao, "Motion-Attentive Transition for Zero-Shot Video Object
Segmentation", AAAI 2020 (and TIP 2020). Two ResNets see the frame and the picture of its flow.
After each stage but the first a transition adds to the frame's features what attention by the
flow's found in them; a gate weighs each scale by channel and place; a decoder finds boundaries at
every scale and gives them, as one more channel, to the branch that decides on the mask.

Where the released code and the paper differ (we follow the code, on which the parity case stands):
- The transition's affinity goes through a tanh and its summary is divided by its length; the paper
  has a softmax. Soft attention's shares sum up to 1 over the picture and are not scaled back.
- The five cascades of a transition share their weights, and the flow's stream gets nothing of the
  frame's.
- The spatial part of the gate has no sigmoid.
- The "pyramid" of dilations has one rate, 3, three times over. Weights that nothing uses are in the
  checkpoint, and so they are here: 23.5 million of 143.
- The released network answers at 473 x 473 whatever the input; ours at the input's size.

Where the training differs:
- Hard edges, which weigh more in the loss, are those of another network there, HED. Here they are
  where the frame's own grey is steep.
- Boundaries are made of the masks in the loss, on the device: two pixels to each side at the size
  of training, not at the frame's own. Masks hold no numbers of objects, so that there is none
  between two that touch.
- Flow is estimated after frames were squashed and mirrored, so that its colours are right; there
  the flow's picture is squashed and mirrored (see `draw_at_size` of the segmenter).

Its users stumble on the flow's picture: the longest vector of each one has the full colour, so that
where nothing moves the noise does, and a picture drawn before or after squashing is another one.
The released weights are two files, encoder and decoder, to be put into one.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvos.flow.colour import picture
from jaxvos.flow.each_frame import check_flow, fit_flow, flow_of_each_frame
from jaxvos.inference import batched, fit, to_size
from jaxvos.layers.boundaries import boundary, contrast, dilated, stretched
from jaxvos.layers.boundary_decoder import Decoder
from jaxvos.layers.flow_pictures import wheel_picture
from jaxvos.layers.pixels import imagenet as prepare
from jaxvos.layers.resnet import BatchNorm
from jaxvos.layers.staged_resnet import StagedResNet
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (473, 473)
REDUCTION = 16  # of channels, in transitions and gates
# PyTorch's default for a linear layer: uniform within 1 / sqrt(inputs).
LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def prepare_flow(flow: jax.Array) -> jax.Array:
    """Flow [..., H, W, 2] in pixels -> its colour wheel picture [..., H, W, 3], prepared."""
    return prepare(wheel_picture(flow))


class Transition(nn.Module):
    """Motion-attentive transition: what is added to the frame's and to the flow's features.

    Attributes:
        channels: C of both.
        cascades: How often it is gone through, with the same weights.
        dtype: What convolutions compute in; attention and affinities stay float32.
    """

    channels: int
    cascades: int
    dtype: DType | None

    def setup(self) -> None:
        conv = partial(nn.Conv, kernel_size=(1, 1), kernel_init=LINEAR_INIT, dtype=self.dtype)
        self.proj1, self.proj2 = conv(1), conv(1)
        self.proja, self.projb = (conv(self.channels // REDUCTION) for _ in range(2))
        self.bottleneck1_conv, self.bottleneck2_conv = (conv(self.channels) for _ in range(2))
        norm = partial(BatchNorm, use_running_average=True)
        self.bottleneck1_bn, self.bottleneck2_bn, self.bna, self.bnb = (norm() for _ in range(4))

    def __call__(self, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both [B, h, w, C], of the frame's features a and the flow's b, alike."""
        if self.is_initializing():  # published with the checkpoint, though nothing uses it
            self.bottleneck1_bn(self.bottleneck1_conv(a))
            self.bottleneck2_bn(self.bottleneck2_conv(b))
            self.bna(a), self.bnb(b)
        found, own = self.once(a, b)
        for _ in range(self.cascades - 1):
            a, b = nn.relu(found + a), nn.relu(own + b)
            found, own = self.once(a, b)
        return found, own

    def once(self, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same of a single cascade."""
        seen, own = self.attend(a, b)
        return self.transfer(seen, own), own

    def attend(self, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Soft attention: each stream's features times its places' shares, which sum up to 1."""
        shares = [
            nn.softmax(proj(x).astype(jnp.float32), axis=(1, 2))
            for proj, x in ((self.proj1, a), (self.proj2, b))
        ]
        self.sow("intermediates", "shares", tuple(shares))
        return tuple((s * x).astype(x.dtype) for s, x in zip(shares, (a, b), strict=True))

    def transfer(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Attention transition: at each of the flow's places the frame's features that fit there.

        Unit vectors [B, h, w, C], of attended features, both [B, h, w, C].
        """
        flat = lambda x: x.astype(jnp.float32).reshape(len(x), -1, x.shape[-1])  # noqa: E731
        affinity = jnp.einsum("bjd,bid->bji", flat(self.projb(b)), flat(self.proja(a)))
        affinity = jnp.tanh(affinity)
        self.sow("intermediates", "affinity", affinity)
        found = jnp.einsum("bji,bic->bjc", affinity, flat(a))
        square = (found**2).sum(axis=-1, keepdims=True)
        unit = found * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
        return unit.reshape(a.shape).astype(a.dtype)


class Gate(nn.Module):
    """Scale-sensitive attention: features [B, h, w, C], with what matters in them once more."""

    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=LINEAR_INIT, dtype=self.dtype)
        squeezed = dense(channels // REDUCTION, name="excitation_1")(x.mean(axis=(1, 2)))
        squeezed = nn.relu(squeezed)
        by_channel = nn.sigmoid(dense(channels, name="excitation_2")(squeezed))
        weighed = by_channel[:, None, None] * x
        largest = weighed.max(axis=-1, keepdims=True)
        conv = partial(nn.Conv, use_bias=False, kernel_init=LINEAR_INIT, dtype=self.dtype)
        places = conv(1, (7, 7), padding=3, name="spatial_conv")(largest)
        norm = partial(BatchNorm, momentum=0.99, use_running_average=not train, dtype=self.dtype)
        places = norm(name="spatial_bn")(places)
        whole = nn.sigmoid(dense(1, name="global_attention")(squeezed))
        return x + whole[:, None, None] * places * weighed


class MATNet(nn.Module):
    """The network; logits float32 at the pictures' size.

    Attributes:
        depths: Blocks of the ResNets' stages; (3, 4, 23, 3) is the published ResNet-101.
        width: The ResNets' stem channels (published: 64).
        cascades: How often each transition is gone through (published: 5).
        boundary: Channels of the boundary branches (published: 64).
        features: Channels of the mask's branch (published: 256).
        remat: Compute the ResNets' insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters, affinities and softmax stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    cascades: int = 5
    boundary: int = 64
    features: int = 256
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        resnet = partial(StagedResNet, self.depths, self.width, remat=self.remat, dtype=self.dtype)
        self.image, self.motion = resnet(), resnet()
        for k in (3, 4, 5):
            transition = Transition(self.width * 2**k, self.cascades, self.dtype)
            setattr(self, f"transition{k}", transition)
        for k in (2, 3, 4, 5):
            setattr(self, f"gate{k}", Gate(self.dtype))
        self.decoder = Decoder(self.boundary, self.features, self.dtype)

    def __call__(
        self, frames: jax.Array, flow: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Logits "mask" [B, N, H, W, 1] and "edges" [B, N, H, W, 5] of N = T - 1 frames.

        The last one's flow is not known, so that of several it is left out.

        Args:
            frames: Prepared pictures [B, T, H, W, 3].
            flow: Prepared pictures of the flow, alike.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        count = max(frames.shape[1] - 1, 1)
        flat = (x[:, :count].reshape(-1, *x.shape[2:]) for x in (frames, flow))
        outputs = self.segment(*flat, train)
        return {k: v.reshape(-1, count, *v.shape[1:]) for k, v in outputs.items()}

    def segment(
        self, frames: jax.Array, flow: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """The same of frames and flow [B, H, W, 3]: [B, H, W, 1] and [B, H, W, 5]."""
        return self.decoder(self.encode(frames, flow, train), frames.shape[1:3], train)

    def encode(self, frames: jax.Array, flow: jax.Array, train: bool = False) -> list[jax.Array]:
        """Gated features of both streams together, [B, h, w, C] of the stages 2 to 5."""
        a, b = self.image.stem(frames, train), self.motion.stem(flow, train)
        gated = []
        for k in (2, 3, 4, 5):
            a, b = self.image.stage(k - 1, a, train), self.motion.stage(k - 1, b, train)
            if k > 2:
                found, own = getattr(self, f"transition{k}")(a, b)
                a, b = nn.relu(found + a), nn.relu(own + b)
            both = jnp.concatenate([a, b], axis=-1)
            gated.append(getattr(self, f"gate{k}")(both, train))
        return gated


def weighted_losses(
    outputs: dict[str, jax.Array], mask: jax.Array, edge: jax.Array, hard: jax.Array
) -> jax.Array:
    """[6]: cross entropies of the mask and of the five boundary maps, 1 + `hard` the weight.

    The mean is over pixels, not over weights. All three labels are [..., H, W, 1], `hard` in 0..1.
    """
    logits = jnp.concatenate([outputs["mask"], outputs["edges"]], axis=-1)
    target = jnp.concatenate([mask, *[edge] * outputs["edges"].shape[-1]], axis=-1)
    # PyTorch's BCE never goes beyond 100.
    entropy = jnp.minimum(optax.sigmoid_binary_cross_entropy(logits, target), 100.0)
    return ((1 + hard) * entropy).mean(axis=range(logits.ndim - 1))


def total_loss(parts: jax.Array) -> jax.Array:
    """One number of those of `weighted_losses`."""
    return parts[0] + 0.2 * parts[1:].sum()


def hard_edges(frames: jax.Array, masks: jax.Array) -> jax.Array:
    """How much each pixel's mistake weighs beyond 1: [..., H, W, 1] in 0..1, steep and off objects.

    Args:
        frames: [..., H, W, 3] in 0..255.
        masks: [..., H, W, 1] in {0, 1}.
    """
    outside = 1 - dilated(masks, 11)
    return stretched(dilated(contrast(frames) * outside, 5))


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """The mask's loss plus a fifth of the boundaries', where hard edges off objects weigh more.

    Boundaries, two pixels to each side, are made of the masks here, as are the hard edges of the
    frames; of a clip's last frame neither is needed. A step on still images has one "mask".
    """
    count = outputs["mask"].shape[1]
    frames = batch["frames"][:, :count]
    masks = batch["masks"][:, :count] if "masks" in batch else batch["mask"][:, None]
    masks = jnp.broadcast_to(masks, (*frames.shape[:-1], 1))
    parts = weighted_losses(outputs, masks, boundary(masks, 2), hard_edges(frames, masks))
    total = total_loss(parts)
    kind = "video_loss" if "masks" in batch else "image_loss"
    return total, {kind: total, "mask_loss": parts[0], "fused_edge_loss": parts[1]}


@partial(jax.jit, static_argnames=("model", "flip", "draw"))
def _score(
    model: MATNet,
    variables: Variables,
    frames: jax.Array,
    flow: jax.Array,
    *,
    flip: bool,
    draw: bool,
) -> jax.Array:
    """Probabilities [B, H, W] of frames [B, H, W, 3] uint8.

    `flow` is [B, H, W, 2] if it is to be drawn here, else its picture [B, H, W, 3].
    """

    def once(frames: jax.Array, flow: jax.Array) -> jax.Array:
        pictures = prepare_flow(flow) if draw else prepare(flow)
        outputs = model.apply(variables, prepare(frames), pictures, method="segment")
        return nn.sigmoid(outputs["mask"][..., 0])

    scores = once(frames, flow)
    if not flip:
        return scores
    turned = flow[:, :, ::-1]
    if draw:
        turned = turned * jnp.float32([-1, 1]).reshape(1, 1, 1, 2)
    return (scores + once(frames[:, :, ::-1], turned)[:, :, ::-1]) / 2


def segmenter(
    model: MATNet,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    flip: bool = True,
    draw_at_size: bool = False,
    batch: int = 1,
) -> Segmenter:
    """Segments each frame by itself and its flow to the next one.

    The last frame, which the released code leaves out, takes the flow of the one before; a video of
    one frame takes flow of zero, whose picture is white.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to, without regard to their aspect, as released.
        flip: Whether to average with what comes of both pictures mirrored.
        draw_at_size: Draw the flow's picture when the flow has been squashed and mirrored with its
            frame, as it is in training here; the recipes set this. Released weights have seen
            pictures that were drawn at the frame's size and then squashed and mirrored.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
    """
    size = tuple(size)
    score = partial(_score, model, variables, flip=flip, draw=draw_at_size)

    def inputs(video: Video) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for frame, flow in zip(video.frames, flow_of_each_frame(video), strict=True):
            drawn = fit_flow(flow, size) if draw_at_size else fit(picture(flow), size)
            yield fit(frame, size), drawn

    def segment(video: Video) -> Iterator[np.ndarray]:
        check_flow(video, "MATNet")
        for t, scores in enumerate(batched(score, inputs(video), batch=batch)):
            yield to_size(scores, video.frames[t].shape[:2])

    return segment


# The two released files have the names without these.
_E, _D = r"(?:encoder\.)?", r"(?:decoder\.)?"


def _stream(number: int, ours: str) -> tuple[tuple[str, str], ...]:
    """Names of one ResNet's modules; torchvision's layer1 is res2 there."""
    blocks = [
        (rf"{_E}res{k + 1}_{number}\.(\d+)\.", rf"{ours}/layer{k}/block\1/") for k in (1, 2, 3, 4)
    ]
    return (
        (rf"{_E}(conv1|bn1)_{number}", rf"{ours}/\1"),
        *((block + r"downsample\.0", path + "project_conv") for block, path in blocks),
        *((block + r"downsample\.1", path + "project_bn") for block, path in blocks),
        *((block + r"(\w+)", path + r"\2") for block, path in blocks),
    )


NAMES = (
    *_stream(1, "image"),
    *_stream(2, "motion"),
    (rf"{_E}gated_res(\d)\.(excitation_[12]|global_attention)\.0", r"gate\1/\2"),
    (rf"{_E}gated_res(\d)\.spatial\.(conv|bn)", r"gate\1/spatial_\2"),
    (rf"{_E}coa_res(\d)\.bottolneck([12])\.0", r"transition\1/bottleneck\2_conv"),
    (rf"{_E}coa_res(\d)\.bottolneck([12])\.1", r"transition\1/bottleneck\2_bn"),
    (rf"{_E}coa_res(\d)\.(\w+)", r"transition\1/\2"),
    (rf"{_D}(RF\d)\.pdc\.(block\d|bn)(?:\.conv)?", r"decoder/\1/pdc/\2"),
    (rf"{_D}(RF\d|GC|bdry\d)\.(\w+)", r"decoder/\1/\2"),
    (rf"{_D}(convG[12]|pred\d|concat)", r"decoder/\1"),
)

SYSTEM = System(
    title="MATNet (Zhou et al., AAAI 2020): motion attends to appearance, stage by stage",
    model=MATNet,
    inputs={"frames": prepare, "flow": prepare_flow},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="image+motion",
    facts=Facts(
        needs="frames, flow",
        trained="DAVIS-2016, YouTube-VOS",
        reported="82.4 / 80.7",
        error="3.9e-5 (70)",
    ),
    reads=("flow",),
    shapes=lambda model: {"frames": (1, 1, 33, 49, 3), "flow": (1, 1, 33, 49, 2)},
)
