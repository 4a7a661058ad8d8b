"""TMO: a picture and its optical flow are seen alike; where there is no flow, the picture twice.

Cho, Lee, Lee, Park, Kim, Lee, "Treating Motion as Option to Reduce Motion Dependency in
Unsupervised Video Object Segmentation", WACV 2023; with output selection, arXiv 2309.14786. Two
encoders of one shape see the picture and its flow as a colour wheel picture; their maps are summed
at every scale and one decoder answers. The motion encoder is trained on pictures too, so that
flow is an option: `motion` of the segmenter says whether it is used, or the surer of both answers.

Where the released code and the paper differ, or one thing in it from another (we follow the code):
- Whether its network answers with soft scores or hard masks depends on the batch: that of a single
  video has masks alone. Here there are always scores; those above 0.5 are the masks (`hard`).
- Output selection came with the second paper and is off in the released test.
- The ResNet's BatchNorm never learns statistics; the transformer's drop path does drop.
- Attention over channels does not reduce them, unlike the CBAM that it is named after.
- Every frame has a flow picture there, the last one's made somehow. Here the last frame has the
  flow of the one before.
- A flow that is zero everywhere, which is drawn white, is no flow here: the motion encoder sees the
  picture instead. In the release only what is trained on stills is marked like that.

What its users stumble on: frames are squashed to a square of 384, whatever their aspect, and the
pictures of flow are normalised each by itself, so that the faintest noise of a still scene has full
colours.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.flow.colour import picture as flow_picture
from jaxvos.flow.each_frame import check_flow, flow_of_each_frame
from jaxvos.inference import batched
from jaxvos.layers.flow_pictures import wheel_picture
from jaxvos.layers.mix_transformer import NAMES as MIX_NAMES
from jaxvos.layers.mix_transformer import MixTransformer
from jaxvos.layers.pixels import imagenet as prepare
from jaxvos.layers.resize import bicubic
from jaxvos.layers.resnet import ResNet
from jaxvos.losses import cross_entropy
from jaxvos.system import Facts, System
from jaxvos.torch_import import TORCHVISION_RESNET
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (384, 384)
SMALLEST = 32
ENCODERS = ("resnet", "mit")
MOTIONS = ("flow", "image", "select")
SURE = 0.1
"""Probabilities of a class below this count for an answer's confidence."""


def prepare_flow(flow: jax.Array) -> jax.Array:
    """Flow [..., H, W, 2] pixels -> its colour wheel picture [..., H, W, 3], normalised."""
    return prepare(wheel_picture(flow))


class CBAM(nn.Module):
    """A convolution, then attention over channels and over places: [B, h, w, C] -> the same."""

    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = _conv(channels, 3, self.dtype, "conv1")(x)
        first, second = (_conv(channels, 1, self.dtype, f"channels{i}") for i in (0, 1))
        mixed = lambda y: second(nn.relu(first(y)))  # noqa: E731
        whole = (1, 2)
        asked = mixed(x.mean(whole, keepdims=True)) + mixed(x.max(whole, keepdims=True))
        x = x * nn.sigmoid(asked)
        y = jnp.concatenate([x.mean(-1, keepdims=True), x.max(-1, keepdims=True)], axis=-1)
        y = nn.relu(_conv(16, 3, self.dtype, "places0")(y))
        return x * nn.sigmoid(_conv(1, 3, self.dtype, "places1")(y))


class Decoder(nn.Module):
    """Summed maps at 1/4, 1/8, 1/16 and 1/32 -> logits [B, h, w, 2] at 1/4: background, object."""

    features: int
    dtype: DType | None

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        conv = partial(_conv, self.features, dtype=self.dtype)
        x = None
        for level, skip in enumerate(reversed(maps), 1):
            skip = nn.relu(conv(1, name=f"conv{level}")(skip))
            if x is not None:
                skip = jnp.concatenate([skip, bicubic(x, skip.shape[1:3])], axis=-1)
            x = nn.relu(conv(3, name=f"blend{level}")(skip))
            self.sow("intermediates", f"blend{level}_out", x)
            x = CBAM(self.dtype, name=f"cbam{level}")(x)
            self.sow("intermediates", f"cbam{level}_out", x)
        return _conv(2, 3, self.dtype, "predictor")(x)


def _conv(features: int, side: int, dtype: DType | None, name: str) -> nn.Conv:
    init = nn.initializers.he_uniform()
    return nn.Conv(
        features, (side, side), padding=side // 2, kernel_init=init, dtype=dtype, name=name
    )


class TMO(nn.Module):
    """The network; logits of background and object, float32.

    Attributes:
        encoder: "resnet" or "mit", what both encoders are.
        depths: Blocks of their stages; (3, 4, 23, 3) is ResNet-101, (2, 2, 2, 2) MiT-b1.
        width: Channels of the stem; 64 in both published ones.
        features: Channels of the decoder (published: 256).
        frozen: Whether the ResNet's BatchNorm keeps its statistics in training, as published;
            without ImageNet's weights to begin with it is of no use.
        drop: Of the transformer, see `MixTransformer`.
        remat: Compute the encoders' insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters, affinities and softmax stay float32.
    """

    encoder: str = "resnet"
    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    features: int = 256
    frozen: bool = True
    drop: float = 0.1
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        self.app_encoder = self._encoder()
        self.mo_encoder = self._encoder()
        self.decoder = Decoder(self.features, self.dtype)

    def _encoder(self) -> nn.Module:
        if self.encoder not in ENCODERS:
            known = ", ".join(ENCODERS)
            raise ValueError(f"TMO has no encoder {self.encoder!r}. There are: {known}.")
        if self.encoder == "mit":
            return MixTransformer(self.depths, self.width, self.drop, self.remat, self.dtype)
        return ResNet(
            self.depths,
            self.width,
            strides=(1, 2, 2, 2),
            dilations=(1, 1, 1, 1),
            ceil_pool=False,
            remat=self.remat,
            stride_in_3x3=True,
            every_stage=True,
            dtype=self.dtype,
        )

    def __call__(self, frames: jax.Array, flow: jax.Array, train: bool = False) -> jax.Array:
        """Logits [B, N, H, W, 2] of the frames that have a flow of their own.

        Args:
            frames: Prepared pictures [B, T, H, W, 3]: one, or several whose last one, to which the
                flow of the one before leads, is not segmented: N = T - 1.
            flow: Prepared flow pictures, alike; those without any colour are replaced by the frame.
            train: Whether the transformers drop, and BatchNorm learns unless it is frozen.
        """
        count = max(frames.shape[1] - 1, 1)
        own, moves = (x[:, :count].reshape(-1, *x.shape[2:]) for x in (frames, flow))
        app = self.appearance(own, train)
        logits = self.decode(app, self.motion(optional(moves, own), train))
        return bicubic(logits, frames.shape[2:4]).reshape(-1, count, *frames.shape[2:4], 2)

    def appearance(self, pictures: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """What is seen at 1/4, 1/8, 1/16 and 1/32 of pictures [B, H, W, 3]."""
        return self.app_encoder(pictures, train and self._learns)

    def motion(self, pictures: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """The same of flow pictures, or of the frames in their place."""
        return self.mo_encoder(pictures, train and self._learns)

    def decode(self, app: Sequence[jax.Array], mo: Sequence[jax.Array]) -> jax.Array:
        """Logits [B, H, W, 2] at four times the size of the encoders' largest maps."""
        logits = self.decoder([a + m for a, m in zip(app, mo, strict=True)]).astype(jnp.float32)
        return bicubic(logits, tuple(4 * n for n in logits.shape[1:3]))

    @property
    def _learns(self) -> bool:
        return self.encoder == "mit" or not self.frozen


def optional(flow: jax.Array, frames: jax.Array) -> jax.Array:
    """Prepared flow pictures [B, H, W, 3], the frame in place of one that is white all over."""
    nearly_white = prepare(jnp.full((1, 1, 1, 3), 254.5))
    nothing = (flow > nearly_white).all(axis=(1, 2, 3), keepdims=True)
    return jnp.where(nothing, frames, flow)


def confidence(logits: jax.Array) -> jax.Array:
    """How sure answers [B, H, W, 2] are, [B]: the more, the more probabilities are nearly 0."""
    probabilities = nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.sqrt((jnp.maximum(SURE - probabilities, 0) ** 2).sum(axis=(1, 2, 3)))


def surer(by_image: jax.Array, by_flow: jax.Array) -> jax.Array:
    """Adaptive output selection: of two answers [B, H, W, 2] the surer one, frame by frame."""
    image = confidence(by_image) > confidence(by_flow)
    return jnp.where(image[:, None, None, None], by_image, by_flow)


def loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Cross entropy of the two classes, the mean over pixels.

    Args:
        logits: [B, N, H, W, 2].
        batch: "masks" [B, T, H, W, 1] of T >= N frames, or of a step on still images "mask".
    """
    masks = batch["masks"][:, : logits.shape[1]] if "masks" in batch else batch["mask"][:, None]
    total = cross_entropy(for_object(logits)[..., None], masks)
    return total, {"video_loss" if "masks" in batch else "image_loss": total}


def for_object(logits: jax.Array) -> jax.Array:
    """The logit [...] of the object's probability from those of both classes [..., 2]."""
    return logits[..., 1] - logits[..., 0]


@partial(jax.jit, static_argnames=("model", "select"))
def _answer(
    model: TMO, variables: Variables, pictures: jax.Array, moves: jax.Array, *, select: bool
) -> jax.Array:
    """Logits [B, H, W] of the object for pictures and those of their flow, [B, H, W, 3] 0..255."""
    apply = partial(model.apply, variables)
    frames = prepare(pictures)
    app, moves = apply(frames, method="appearance"), optional(prepare(moves), frames)
    if select:
        app = [jnp.concatenate([maps] * 2) for maps in app]
        moves = jnp.concatenate([frames, moves])
    logits = apply(app, apply(moves, method="motion"), method="decode")
    return for_object(surer(*jnp.split(logits, 2)) if select else logits)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture or map [H, W, ...] at `size`, float32, by cubic convolution as in the network."""
    picture = np.asarray(picture, np.float32)
    if picture.shape[:2] == size:
        return picture
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)


def segmenter(
    model: TMO,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    motion: str = "flow",
    hard: bool = False,
    batch: int = 1,
) -> Segmenter:
    """Segments each frame by itself, with its flow or without.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames and pictures of flow are resized to, without regard to their aspect.
        motion: What the motion encoder sees: "flow"; "image", the frame, and no flow is read or
            computed; or "select", each by itself, of which the surer answer is taken.
        hard: Scores are 0 or 1, the released masks, and not probabilities.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
    """
    if motion not in MOTIONS:
        raise ValueError(f"motion={motion!r}: the motion encoder sees one of {', '.join(MOTIONS)}.")
    size = tuple(size)
    if min(size) < SMALLEST:
        raise ValueError(f"size={size}: TMO needs at least {SMALLEST} x {SMALLEST} pixels.")
    answer = partial(_answer, model, variables, select=motion == "select")

    def inputs(video: Video, sizes: deque) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        fields = repeat(None) if motion == "image" else flow_of_each_frame(video)
        for frame, flow in zip(video.frames, fields, strict=False):  # `repeat` has no end
            sizes.append(frame.shape[:2])
            small = resized(frame, size)
            yield small, small if flow is None else resized(flow_picture(flow), size)

    def segment(video: Video) -> Iterator[np.ndarray]:
        if motion != "image":
            check_flow(video, "TMO", "have it go without: motion=image")
        sizes: deque[tuple[int, int]] = deque()
        for logits in batched(answer, inputs(video, sizes), batch=batch):
            logits = resized(logits, sizes.popleft())
            yield np.float32(logits > 0) if hard else 0.5 + 0.5 * np.tanh(0.5 * logits)

    return segment


NAMES = (
    (r"vos\.(app|mo)_encoder", ""),  # mean and deviation of pictures
    *(
        (rf"vos\.{which}\.{theirs}", f"{which}/{ours}")
        for which in ("app_encoder", "mo_encoder")
        for theirs, ours in (
            *TORCHVISION_RESNET,
            *((rf"backbone\.encoder\.{mix}", module) for mix, module in MIX_NAMES),
        )
    ),
    (r"vos\.decoder\.(conv\d|blend\d|predictor)\.conv", r"decoder/\1"),
    (r"vos\.decoder\.(cbam\d)\.conv1\.conv", r"decoder/\1/conv1"),
    (r"vos\.decoder\.(cbam\d)\.conv2\.(\d)\.conv", r"decoder/\1/channels\2"),
    (r"vos\.decoder\.(cbam\d)\.conv3\.(\d)\.conv", r"decoder/\1/places\2"),
)

SYSTEM = System(
    title="TMO (Cho et al., WACV 2023): a picture and its flow summed, flow being an option",
    model=TMO,
    inputs={"frames": prepare, "flow": prepare_flow},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="app_encoder+mo_encoder",
    facts=Facts(
        needs="frames; flow is an option",
        trained="DUTS, DAVIS-2016",
        reported="85.6 / 86.6 without CRF",
        error="2.8e-6, MiT-b1 2.3e-6 (35 each; gradients in float64)",
    ),
    reads=("flow",),
    shapes=lambda model: {"frames": (1, 1, 33, 49, 3), "flow": (1, 1, 33, 49, 2)},
)
