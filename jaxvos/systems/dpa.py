"""DPA: each channel's mean feature is a prototype; a frame's are met again in other frames.

Cho, Lee, Lee, Lee, Choi, Kim, Lee, "Dual Prototype Attention for Unsupervised Video Object
Segmentation", CVPR 2024, arXiv 2211.12036. Two VGG-16 see a frame and its flow as a colour wheel
picture. Inter-frame attention says each stream's last features anew by the prototypes of a few
references of the video; inter-modality attention relates the prototypes of one modality as a graph
and has the two streams refine each other. One decoder answers from coarse to fine.

Where the released code and the paper differ (we follow the code, on which the parity cases stand):
- Its network for video has no inter-modality attention: the calls are commented out. The weights
  are there, and `inter_modality` puts it where the network of the pretraining, which has its half
  for pictures, has it: on the features at 1/8, from which those at 1/16 are then computed, and on
  these before the inter-frame attention. What the paper does beyond that the code does not tell.
- Keys of the inter-frame attention are its values; the values' own weights count for nothing.
- The first, coarsest map gates all three refinements, not each the next.
- Of colours, pictures are normalised by ImageNet's mean and deviation; flow is only put in 0..1.
- A feature that is zero everywhere has no direction, and gives NaN there; here its cosine is 0.
- Sides are equal there. Here they need not be.
- The last frame has no flow there; here it has that of the one before.

What its users stumble on: references are the frames i * (T // 4) of the video, which is why a clip
of fewer than four has its first frame four times; every map is stretched to 0..1 by itself, so that
a frame without any object gets one all the same; and the pretraining is another network, with
other weights (`stage`), from which both streams of this one start (`started_from`).
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.flow.colour import picture as flow_picture
from jaxvos.flow.each_frame import check_flow, flow_at, flow_of_each_frame
from jaxvos.inference import batched, fit, to_size
from jaxvos.layers.flow_pictures import wheel_picture
from jaxvos.layers.gated_decoder import (
    DECODER_NAMES,
    Decoder,
    Residual,
    layer_names,
    residual_names,
)
from jaxvos.layers.pixels import imagenet as prepare
from jaxvos.layers.prototype_attention import InterModality
from jaxvos.layers.prototype_stream import STREAM_NAMES, Stream
from jaxvos.layers.prototypes import relation_names
from jaxvos.losses import soft_iou
from jaxvos.system import Facts, System
from jaxvos.torch_import import TORCHVISION_VGG16
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (512, 512)
SMALLEST = 32
STAGES = ("video", "pretrain")

Keys = tuple[jax.Array, jax.Array]
"""The references' prototypes of pictures and of flow, [B, N * C, C] each."""


def prepare_flow(flow: jax.Array) -> jax.Array:
    """Flow [..., H, W, 2] pixels -> its colour wheel picture [..., H, W, 3] in 0..1."""
    return prepare_drawn(wheel_picture(flow))


def prepare_drawn(pictures: jax.Array) -> jax.Array:
    """Pictures of flow [..., H, W, 3] RGB in 0..255 -> 0..1, float32."""
    return pictures.astype(jnp.float32) / 255


class DPA(nn.Module):
    """The network; probabilities [B, H, W, 4] float32 of a clip's first frame, the last is finest.

    Attributes:
        stage: "video", or "pretrain", the one that looks at pictures alone.
        width: Channels of VGG's first block (published: 64); others have 2, 4, 8 and 8 times that.
        convolutions: Of each block; (2, 2, 3, 3, 3) is VGG-16.
        squeezed: Channels that have prototypes (published: 128).
        features: Channels of the refinements (published: 32).
        neighbours: Of each prototype in the graph, itself among them (published: 10).
        inter_modality: Whether the network for video has that attention; the released has not.
        remat: Compute the insides of VGG again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters, prototypes and softmax stay float32.
    """

    stage: str = "video"
    width: int = 64
    convolutions: Sequence[int] = (2, 2, 3, 3, 3)
    squeezed: int = 128
    features: int = 32
    neighbours: int = 10
    inter_modality: bool = False
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        if self.stage not in STAGES:
            known = ", ".join(STAGES)
            raise ValueError(f"DPA has no stage {self.stage!r}. There are: {known}.")
        video = self.stage == "video"
        stream = partial(
            Stream, self.width, self.convolutions, self.squeezed, video, self.remat, self.dtype
        )
        attention = partial(InterModality, 8 * self.width, self.neighbours, video, self.dtype)
        self.rgb, self.dam4, self.dam5 = stream(), attention(), attention()
        if video:
            self.flow = stream()
            self.fuse4, self.fuse5, self.fuse6 = (
                Residual(self.squeezed, self.dtype) for _ in range(3)
            )
        self.decoder = Decoder(self.features, self.dtype)

    def __call__(self, frames: jax.Array, flow: jax.Array, train: bool = False) -> jax.Array:
        """Probabilities [B, H, W, 4] of the first frames; in the pretraining others are not seen.

        Args:
            frames: Prepared pictures [B, 1 + N, H, W, 3]: a frame and its N references; one that
                has none is its own.
            flow: Prepared pictures of flow, alike.
            train: Whether BatchNorm learns.
        """
        if self.stage == "pretrain":
            return self.still(frames[:, 0], train)
        rest = slice(min(1, frames.shape[1] - 1), None)
        keys = self.remember(frames[:, rest], flow[:, rest])
        return self.answer(frames[:, 0], flow[:, 0], keys, train)

    def remember(self, frames: jax.Array, flow: jax.Array) -> Keys:
        """What is kept of references [B, N, H, W, 3] and their flow."""
        return self.rgb.remember(frames), self.flow.remember(flow)

    def answer(
        self, frames: jax.Array, flow: jax.Array, keys: Keys, train: bool = False
    ) -> jax.Array:
        """Probabilities [B, H, W, 4] of frames [B, H, W, 3]."""
        streams = (self.rgb, self.flow)
        low, _ = early = [s.early(x) for s, x in zip(streams, (frames, flow), strict=True)]
        f4 = [maps[-1] for maps in early]
        f4 = self._attended(self.dam4, f4, [s.squeeze4 for s in streams], train)[0]
        f5 = [s.last(x) for s, x in zip(streams, f4, strict=True)]
        f5, queries = self._attended(self.dam5, f5, [s.squeeze5 for s in streams], train)
        recalled = [s.recall(*x, train) for s, *x in zip(streams, f5, queries, keys, strict=True)]
        self.sow("intermediates", "recalled", recalled)
        of_rgb, of_flow = (s.scales(*x, train) for s, *x in zip(streams, f4, recalled, strict=True))
        self.sow("intermediates", "scales", [of_rgb, of_flow])
        fuses = (self.fuse4, self.fuse5, self.fuse6)
        scales = [
            fuse(jnp.concatenate(both, axis=-1), train)
            for fuse, *both in zip(fuses, of_rgb, of_flow, strict=True)
        ]
        self.sow("intermediates", "fused", scales)
        return self.decoder(scales, low[:3], train)

    def _attended(
        self,
        attention: InterModality,
        features: Sequence[jax.Array],
        squeezes: Sequence[nn.Conv],
        train: bool,
    ) -> tuple[Sequence[jax.Array], list[jax.Array]]:
        """Features after the inter-modality attention if there is any, and as they were squeezed.

        Its weights are made even where it is not used: published ones have them.
        """
        squeezed = [squeeze(x) for squeeze, x in zip(squeezes, features, strict=True)]
        if not self.inter_modality and not self.is_initializing():
            return features, squeezed
        found = attention(features, squeezed, train)
        return (found if self.inter_modality else features), squeezed

    def still(self, pictures: jax.Array, train: bool = False) -> jax.Array:
        """The pretraining's probabilities [B, H, W, 4] of pictures [B, H, W, 3]."""
        low = self.rgb.early(pictures)
        squeezed4 = self.rgb.squeeze4(low[-1])
        f4 = self.dam4.alone(low[-1], squeezed4, train)
        f5 = self.rgb.last(f4)
        squeezed5 = self.rgb.squeeze5(f5)
        f5 = self.dam5.alone(f5, squeezed5, train)
        scales = self.rgb.scales(f4, f5, train)
        for name, value in (("squeezed", [squeezed4, squeezed5]), ("attended", [f4, f5])):
            self.sow("intermediates", name, value)
        self.sow("intermediates", "scales", scales)
        return self.decoder(scales, low[:3], train)


def loss(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    """1 - soft IoU, the mean over the four answers [B, H, W, 4] of each sample.

    The batch has "masks" [B, T, H, W, 1], of which the first counts, or "mask" [B, H, W, 1].
    """
    masks = batch["masks"][:, 0] if "masks" in batch else batch["mask"]
    total = soft_iou(outputs, masks)
    return total, {"video_loss" if "masks" in batch else "image_loss": total}


def started_from(pretraining: Variables, variables: Variables) -> Variables:
    """`variables` of the network for video with the pretraining's in their places.

    What that one has for pictures is where the flow's stream starts from, too.
    """
    theirs, ours = (flatten_dict(tree, sep="/") for tree in (pretraining, variables))
    found = dict(ours)
    for path, value in theirs.items():
        if path not in ours or np.shape(value) != np.shape(ours[path]):
            raise ValueError(f"The network for video has no {path} of shape {np.shape(value)}.")
        twin = re.sub(r"/rgb/", "/flow/", path)
        found |= {path: value} | ({twin: value} if twin in ours else {})
    return unflatten_dict(found, sep="/")


@partial(jax.jit, static_argnames="model")
def _remember(model: DPA, variables: Variables, frames: jax.Array, moves: jax.Array) -> Keys:
    """The keys of one video, of N pictures [N, H, W, 3] 0..255 and those of their flow."""
    inputs = prepare(frames)[None], prepare_drawn(moves)[None]
    return model.apply(variables, *inputs, method="remember")


@partial(jax.jit, static_argnames="model")
def _answer(
    model: DPA, variables: Variables, keys: Keys, frames: jax.Array, moves: jax.Array
) -> jax.Array:
    """Probabilities [B, H, W] of pictures [B, H, W, 3] 0..255."""
    inputs = prepare(frames), prepare_drawn(moves), keys
    return model.apply(variables, *inputs, method="answer")[..., -1]


@partial(jax.jit, static_argnames="model")
def _still(model: DPA, variables: Variables, frames: jax.Array) -> jax.Array:
    """The pretraining's probabilities [B, H, W] of pictures [B, H, W, 3] 0..255."""
    return model.apply(variables, prepare(frames), method="still")[..., -1]


def stretched(scores: np.ndarray) -> np.ndarray:
    """A map [H, W] at 0..1 by its least and its greatest; a constant one is 0."""
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low + np.float32(1e-8))


def segmenter(
    model: DPA,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    references: int = 4,
    stretch: bool = True,
    batch: int = 1,
) -> Segmenter:
    """Segments each frame with a few frames of its video, which are encoded once.

    The last frame's flow is that of the one before, a single frame's is zero. The pretraining's
    network looks at each frame alone, and at no flow.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames and pictures of flow are squashed to.
        references: N: the frames i * (T // N), which for fewer than N frames is N times the first.
        stretch: Whether each map is stretched to 0..1, as released.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
    """
    size = tuple(size)
    if min(size) < SMALLEST:
        raise ValueError(f"size={size}: DPA needs at least {SMALLEST} x {SMALLEST} pixels.")
    if references < 1:
        raise ValueError(f"references={references}: DPA looks at one frame more at the least.")

    def small(frame: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return fit(frame, size), fit(flow_picture(flow), size)

    def keys_of(video: Video) -> Keys:
        step = len(video.frames) // references
        chosen = [i * step for i in range(references)]
        seen = {t: small(video.frames[t], flow_at(video, t)) for t in set(chosen)}
        pairs = [seen[t] for t in chosen]
        return _remember(model, variables, *map(np.stack, zip(*pairs, strict=True)))

    def inputs(video: Video, sizes: deque) -> Iterator[tuple[np.ndarray, ...]]:
        if model.stage == "pretrain":
            for frame in video.frames:
                sizes.append(frame.shape[:2])
                yield (fit(frame, size),)
            return
        for frame, flow in zip(video.frames, flow_of_each_frame(video), strict=True):
            sizes.append(frame.shape[:2])
            yield small(frame, flow)

    def segment(video: Video) -> Iterator[np.ndarray]:
        if not len(video.frames):
            return
        if model.stage == "pretrain":
            answer = partial(_still, model, variables)
        else:
            check_flow(video, "DPA")
            answer = partial(_answer, model, variables, keys_of(video))
        sizes: deque[tuple[int, int]] = deque()
        for scores in batched(answer, inputs(video, sizes), batch=batch):
            scores = to_size(scores, sizes.popleft())
            yield stretched(scores) if stretch else scores

    return segment


_DAM = r"DAM([45])\.(rgb|flow)"
_GRAPH = rf"{_DAM}_OCR\.GAN"

NAMES = (
    *(
        (rf"(rgb|flow)_encoder\.{theirs.replace('features', 'vgg')}", rf"\1/encoder/{ours}")
        for theirs, ours in TORCHVISION_VGG16
    ),
    *STREAM_NAMES,
    # What the released networks have and do not use.
    (rf"(rgb|flow)_(TAM\.V|fuse5\.0)|{_DAM}_OCR\.out\.[01]|{_GRAPH}\.fc", ""),
    *relation_names(rf"{_GRAPH}\.TF", r"dam\1/\2/graph/relation"),
    *(
        pair
        for i in (1, 2, 3)
        for pair in layer_names(rf"{_GRAPH}\.conv{i}", rf"dam\1/\2/graph/edge{i}")
    ),
    *layer_names(rf"{_DAM}_fusion", r"dam\1/\2/fuse"),
    *relation_names(r"DAM([45])\.CCM\.(can[12])", r"dam\1/\2"),
    *residual_names(r"total_fuse([456])", r"fuse\1"),
    *DECODER_NAMES,
)

SYSTEM = System(
    title="DPA (Cho et al., CVPR 2024): prototypes of a frame are met again in other frames",
    model=DPA,
    inputs={"frames": prepare, "flow": prepare_flow},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="rgb/encoder",
    facts=Facts(
        needs="frames, flow",
        trained="DUTS, DAVIS-2016, YouTube-VOS",
        reported="86.8 / 88.4 without CRF",
        error="5.2e-6 (50), pretraining 5.3e-8 (29, in float64)",
    ),
    reads=("flow",),
    shapes=lambda model: {"frames": (1, 2, 33, 49, 3), "flow": (1, 2, 33, 49, 2)},
    started_from=started_from,
)
