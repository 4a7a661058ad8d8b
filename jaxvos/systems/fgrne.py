"""FGRNE: a still-image network is made to see motion by what flow and memory bring from before.

Li, Xie, Wei, Wang, Lin, "Flow Guided Recurrent Neural Encoder for Video Salient Object Detection",
CVPR 2018. The host, any network that finds salient objects in pictures, gives features of a frame
and of the k before it. A ConvLSTM refines the flow from the frame to each former one, near to far;
along it the former features are moved to where the frame's are; a second ConvLSTM reads them, far
to near and the frame's own last, and from its state one convolution decides.

No code was released: this follows the paper as far as it is specific, and the parity case stands on
definitions, not on a release. What differs:
- The paper computes the flow from the frame to each former one by FlowNet, and trains that with the
  rest. Here the video brings its flow, from each frame to the next, which is turned round and
  chained on the features' grid (`direct` estimates it as the paper does), and is not trained; the
  refinement is.
- The paper's host is DSS, and its last layers decide. Here it is a DeepLab, or whatever `host` is,
  and a 3x3 convolution decides.
- Refined flow is the flow plus what a convolution makes of the ConvLSTM's state, which begins at 0.
- In place of frames before the first one there is the first one, and nothing moves between them.
- Cross entropy is not balanced between the classes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvos.flow.each_frame import check_flow, fit_flow
from jaxvos.inference import batched, fit, to_size
from jaxvos.layers.deeplab_v3 import DeepLabV3
from jaxvos.layers.pixels import imagenet as prepare
from jaxvos.layers.recurrent import ConvLSTM
from jaxvos.layers.resize import logits_at
from jaxvos.layers.warping import chained_flow, inverse_flow, resize_flow, warp
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (473, 473)


def prepare_flow(flow: jax.Array) -> jax.Array:
    """Flow [..., 2] in pixels -> the same, float32."""
    return flow.astype(jnp.float32)


class FGRNE(nn.Module):
    """The network; logits [B, H, W, 1] float32 of a clip's last frame.

    Attributes:
        depths: Blocks of the host's ResNet; (3, 4, 6, 3) is ResNet-50.
        width: Its stem's channels (64 in every published ResNet).
        branch: Channels of the host's features.
        rates: Dilations of its ASPP; DeepLab v3 has these at 1/8 of the size.
        flow_hidden: Channels of the ConvLSTM that refines flow.
        hidden: Channels of the ConvLSTM that reads features.
        peephole: (H, W) of the pictures that weights from the latter's cells to its gates, one a
            place and channel, are learned for; the network then takes no others. () for none.
        remat: Compute the host's insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters and flow stay float32.
        host: Another host: a module that turns (pictures [B, H, W, 3], train) into features
            [B, h, w, C]. The options of the ResNet and the ASPP do not count then.
    """

    depths: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    branch: int = 256
    rates: Sequence[int] = (12, 24, 36)
    flow_hidden: int = 16
    hidden: int = 256
    peephole: Sequence[int] = ()
    remat: bool = False
    dtype: DType | None = None
    host: nn.Module | None = None

    def setup(self) -> None:
        own = DeepLabV3(self.depths, self.width, self.branch, self.rates, self.remat, self.dtype)
        self.encoder = own if self.host is None else self.host.clone(parent=None, name=None)
        self.flow_lstm = ConvLSTM(self.flow_hidden)
        # At first the flow is as it was given.
        self.flow_out = nn.Conv(2, (3, 3), padding=1, kernel_init=nn.initializers.zeros)
        self.feat_lstm = ConvLSTM(
            self.hidden,
            peephole="full" if self.peephole else None,
            peephole_init=nn.initializers.zeros,
            dtype=self.dtype,
        )
        self.reg = nn.Conv(1, (3, 3), padding=1, dtype=self.dtype)

    def __call__(
        self, frames: jax.Array, flow: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Logits "reference" [B, H, W, 1] of the last frame.

        Args:
            frames: Prepared pictures [B, T, H, W, 3] in order: k = T - 1 former ones and the frame.
            flow: [B, T, H, W, 2] pixels from each frame to the next; the last one's is not read.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        batch, count, *size = frames.shape[:-1]
        features = self.encode(frames.reshape(-1, *frames.shape[2:]), train)
        features = features.reshape(batch, count, *features.shape[1:])
        back = backwards(flow[:, :-1][:, ::-1], features.shape[2:4])
        logits = self.decide(features, chained_flow(back))
        return {"reference": _enlarge(logits, size)}

    def encode(self, pictures: jax.Array, train: bool = False) -> jax.Array:
        """The host's features [B, h, w, C] of pictures [B, H, W, 3]."""
        return self.encoder(pictures, train)

    def decide(self, features: jax.Array, flow: jax.Array) -> jax.Array:
        """Logits [B, h, w, 1] of the last frame.

        Args:
            features: [B, k + 1, h, w, C] in the frames' order.
            flow: [B, k, h, w, 2] from the last frame to each former one, near to far.
        """
        if features.shape[1] > 1:
            refined, _ = self.refine(flow)
            features = self.gather(features, refined)
        return self.reg(self.feat_lstm(features)[:, -1])

    def refine(self, flow: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Refined flow [B, k, h, w, 2], and the states [B, k, h, w, flow_hidden] it comes of.

        Args:
            flow: From the last frame to each former one, near to far, in pixels of the grid.
        """
        states = self.flow_lstm(flow)
        return flow + self.flow_out(states), states

    def gather(self, features: jax.Array, flow: jax.Array) -> jax.Array:
        """Features [B, k + 1, h, w, C] where the last frame has them, in the frames' order.

        Args:
            features: The same, each where its own frame has them.
            flow: [B, k, h, w, 2] from the last frame to each former one, near to far.
        """
        former = warp(features[:, :-1], flow[:, ::-1], fade=True)
        return jnp.concatenate([former, features[:, -1:]], axis=1)


def backwards(flow: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Flow [..., H, W, 2] to the next frame as flow back from it, on a grid [..., h, w, 2].

    The host's features lie on every eighth pixel from the first one on: corners stay in place.
    """
    return inverse_flow(resize_flow(flow, size, align_corners=True))


def _enlarge(logits: jax.Array, size: Sequence[int]) -> jax.Array:
    return logits_at(logits, size, align_corners=True)


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Binary cross entropy of the last frame, the mean over pixels.

    A step on still images has one "mask"; of a single copy the network sees nothing before.
    """
    mask = batch["masks"][:, -1] if "masks" in batch else batch["mask"]
    total = optax.sigmoid_binary_cross_entropy(outputs["reference"], mask).mean()
    return total, {"video_loss" if "masks" in batch else "image_loss": total}


@partial(jax.jit, static_argnames="model")
def _encode(
    model: FGRNE, variables: Variables, pictures: jax.Array, flow: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Features [B, h, w, C] of pictures [B, H, W, 3] uint8, and flow [B, h, w, 2] to the frames
    before them, whose flow [B, H, W, 2] to them is given."""
    features = model.apply(variables, prepare(pictures), method="encode")
    return features, backwards(prepare_flow(flow), features.shape[1:3])


@partial(jax.jit, static_argnames=("model", "size", "direct"))
def _decide(
    model: FGRNE,
    variables: Variables,
    features: jax.Array,
    flow: jax.Array,
    *,
    size: tuple[int, int],
    direct: bool,
) -> jax.Array:
    """Probabilities [B, H, W] of the last frames of windows of features [B, k + 1, h, w, C].

    `flow` is [B, k, h, w, 2] from each frame to the one before, from the last frame on; if `direct`
    [B, k, H, W, 2] from the last frame to each former one, near to far.
    """
    if direct:
        flow = resize_flow(prepare_flow(flow), features.shape[2:4], align_corners=True)
    else:
        flow = chained_flow(flow)
    logits = model.apply(variables, features, flow, method="decide")
    return nn.sigmoid(_enlarge(logits, size))[..., 0]


def segmenter(
    model: FGRNE,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    former: int = 5,
    direct: bool = False,
    batch: int = 1,
) -> Segmenter:
    """Segments each frame with the `former` ones before it, along the video's flow.

    Nothing of later frames is looked at. Every frame is encoded once, and the features of as many
    as are looked back at are kept.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to, without regard to their aspect.
        former: k, how many frames are looked back at.
        direct: Estimate the flow to every former frame, as the paper does, which takes `former`
            times as long, in place of turning round and chaining that of neighbours.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
    """
    if former < 0:
        raise ValueError(f"former={former}: 0 looks at the frame alone, 5 is usual.")
    size = tuple(size)
    encode = partial(_encode, model, variables)
    decide = partial(_decide, model, variables, size=size, direct=direct)
    still = np.zeros((*size, 2), np.float32)

    def inputs(video: Video) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for t in range(len(video.frames)):
            moving = t and not direct
            flow = fit_flow(video.flow[t - 1], size) if moving else still
            yield fit(video.frames[t], size), flow

    def estimated(video: Video, t: int) -> np.ndarray:
        others = [max(t - j, 0) for j in range(1, former + 1)]
        flows = [fit_flow(video.flow.between(t, u), size) if u != t else still for u in others]
        return np.stack(flows) if flows else still[None][:0]

    def windows(video: Video) -> Iterator[tuple[jax.Array, jax.Array]]:
        window: deque[tuple[jax.Array, jax.Array]] = deque(maxlen=former + 1)
        for t, item in enumerate(batched(encode, inputs(video), batch=batch)):
            window.extend([item] * (1 if t else former + 1))
            features, back = zip(*window, strict=True)
            near_first = jnp.stack(back[::-1])[:former]
            yield jnp.stack(features), estimated(video, t) if direct else near_first

    def segment(video: Video) -> Iterator[np.ndarray]:
        check_flow(video, "FGRNE")
        if direct and not hasattr(video.flow, "between"):
            raise ValueError(
                f"direct=True estimates flow between any two frames, and {video.name} brings that "
                "of neighbours alone: give --flow dis, or leave it out."
            )
        for t, scores in enumerate(batched(decide, windows(video), batch=batch)):
            yield to_size(scores, video.frames[t].shape[:2])

    return segment


def shapes(model: FGRNE) -> dict[str, tuple[int, ...]]:
    """Inputs that variables are made with: two frames, of the size that peepholes are for."""
    size = tuple(model.peephole) or (33, 49)
    return {"frames": (1, 2, *size, 3), "flow": (1, 2, *size, 2)}


NAMES = (
    (r"(flow_lstm|feat_lstm)\.(x_conv|h_conv)", r"\1/\2"),
    (r"(flow_lstm|feat_lstm|flow_out|reg)", r"\1"),
)

SYSTEM = System(
    title="FGRNE (Li et al., CVPR 2018): features moved along flow and read by a ConvLSTM",
    model=FGRNE,
    inputs={"frames": prepare, "flow": prepare_flow},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="encoder/resnet",
    facts=Facts(
        needs="frames, flow",
        trained="SegTrack v2, DAVIS, FBMS",
        reported="max F .783, MAE .043 (saliency)",
        error="8.8e-7 (18), never released",
    ),
    reads=("flow",),
    shapes=shapes,
)
