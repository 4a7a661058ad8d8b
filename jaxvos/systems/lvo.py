"""LVO: a memory that is told what stands out and what moves, and reads the video both ways.

Tokmakov, Alahari, Schmid, "Learning Video Object Segmentation with Visual Memory", ICCV 2017 (and
IJCV 2019). Of each frame a still-image network, DeepLab v1, gives features, MP-Net a map of motion;
both were trained before and stay as they are. A convolutional GRU reads these from the first frame
to the last, and the same GRU from the last to the first; of its two states a frame is decided. So
what has moved once is known where it stands still.

No code was found: this follows the paper as far as it is known to us. What is ours, or uncertain:
- The update gate weighs the candidate, and the reset gate comes before the convolution.
- MP-Net reads flow of half the frame's size and answers at half of that again, hence its map is of
  a quarter as in the paper; it is then averaged down to the features' eighth. Its 1-pixel rule
  (angle 0 for little motion) is not applied.
- The two layers after fc6, each with a tanh, have 128 channels both; there is no activation
  between the 3x3 convolution after the memory and the 1x1 that decides.
- "The object stops": in a fifth of the clips the last five frames are copies of the frame before
  them, or the first five of the frame after them (each as often), masks too, and there is no motion
  in what the memory is told of these.
- The loss is taken at the features' size.
- The features came from VOC's 20 classes. A first stage can take their place (`memory` False): it
  learns the stills' objects for the features and motion, by exact flow, for MP-Net.

Published weights of the whole were Torch7 files, which cannot be read here. The parts can be, from
Caffe's DeepLab (`deeplab_v1.NAMES`, whose pixels ours are; torchvision's VGG-16 was trained on
others) and from files with the names of `motion_pattern.NAMES`, by `torch_import.fill` under
"deeplab" and "motion".

What its users stumble on: nothing can be said of the first frame before the last one is read, and
what the memory is told of every frame is kept until then (about 5 MB a frame of 481 x 857, on the
host); `bidirectional` False needs neither, and was 3 points worse.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.flow.each_frame import check_flow, flow_of_each_frame, places_of
from jaxvos.inference import batched, fit
from jaxvos.layers import deeplab_v1, motion_pattern
from jaxvos.layers.deeplab_v1 import LargeFOV
from jaxvos.layers.flow_pictures import angle_magnitude as prepare_flow
from jaxvos.layers.motion_pattern import MotionPattern, between_frames, motion_loss, nearest
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.recurrent import ConvGRU, bidirectional
from jaxvos.layers.resize import bilinear
from jaxvos.losses import cross_entropy
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (481, 857)
XAVIER = nn.initializers.xavier_uniform()


class LVO(nn.Module):
    """The network.

    Attributes:
        width: Channels of DeepLab's first block (published: 64).
        convolutions: Of its blocks; (2, 2, 3, 3, 3) is VGG-16.
        fov: Channels of its layer fc6 (published: 1024).
        appearance: Channels of the two layers that follow.
        motion_width: Channels of MP-Net's first level (published: 64).
        hidden: Channels of the memory.
        kernel: Side of all its convolutions.
        bidirectional: Whether the memory reads the video from its end too.
        memory: Whether the memory is trained; False trains what it is told.
        stops: Share of the clips in which the object is made to stand still in training.
        stop_frames: For how many frames, at the end or at the beginning.
        dtype: What the layers compute in; parameters, gates and logits stay float32.
    """

    width: int = 64
    convolutions: Sequence[int] = (2, 2, 3, 3, 3)
    fov: int = 1024
    appearance: int = 128
    motion_width: int = 64
    hidden: int = 64
    kernel: int = 7
    bidirectional: bool = True
    memory: bool = True
    stops: float = 0.2
    stop_frames: int = 5
    dtype: DType | None = None

    def setup(self) -> None:
        conv = partial(nn.Conv, kernel_init=XAVIER, dtype=self.dtype)
        self.deeplab = LargeFOV(self.width, self.convolutions, self.fov, dtype=self.dtype)
        self.objects = conv(1, (1, 1))
        self.motion = MotionPattern(self.motion_width, self.dtype)
        self.squeeze1 = conv(self.appearance, (1, 1))
        self.squeeze2 = conv(self.appearance, (1, 1))
        self.gru = ConvGRU(self.hidden, self.kernel, dtype=self.dtype)
        if self.bidirectional:
            self.merge = conv(self.hidden, (3, 3), padding=1)
        self.classify = conv(2, (1, 1))

    def __call__(
        self, frames: jax.Array, flow: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Logits "memory" [B, T, h, w, 1], at 1/8, and which frame each is of, "source" [B, T].

        Without `memory`, what is learned before: logits "motion" [B, T - 1, H / 4, W / 4, 1] of
        clips, "objects" [B, T, h, w, 1] of a single frame (T = 1).

        Args:
            frames: Prepared pictures [B, T, H, W, 3] in order.
            flow: [B, T, H, W, 2], encoded.
            train: Whether objects are made to stop, and MP-Net's BatchNorm, if that is learned,
                uses and updates the batch's statistics.
        """
        every = self.is_initializing()
        outputs = {}
        if every or (not self.memory and frames.shape[1] == 1):
            outputs["objects"] = _per_frame(lambda x: self.objects(self.deeplab(x)), frames)
        if every or (not self.memory and frames.shape[1] > 1):
            moving = partial(self.motion, train=train)
            outputs["motion"] = _per_frame(moving, between_frames(halved(flow)))
        if every or self.memory:
            outputs |= self.remember(frames, flow, train)
        return outputs

    def remember(self, frames: jax.Array, flow: jax.Array, train: bool) -> dict[str, jax.Array]:
        """The memory's part of the outputs; no gradient goes beyond what it is told."""
        looks = _per_frame(self.look, frames)
        moves = _per_frame(partial(self.watch, size=looks.shape[2:4]), halved(flow))
        source = jnp.broadcast_to(jnp.arange(frames.shape[1]), frames.shape[:2])
        if train and self.stops > 0:
            draws = jax.random.uniform(self.make_rng("dropout"), (len(frames),))
            source, own = stopped(draws, frames.shape[1], self.stops, self.stop_frames)
            looks = at_source(looks, source)
            moves = moves * own.reshape(*own.shape, 1, 1, 1).astype(moves.dtype)
        told = jnp.concatenate([looks, moves], axis=-1)
        both = bidirectional(self.gru, self.gru, told) if self.bidirectional else (self.gru(told),)
        return {"memory": self.decide(*both), "source": source}

    def look(self, pictures: jax.Array) -> jax.Array:
        """What the memory is told of pictures [B, H, W, 3]: [B, h, w, appearance]."""
        features = jax.lax.stop_gradient(self.deeplab(pictures))
        return jnp.tanh(self.squeeze2(jnp.tanh(self.squeeze1(features))))

    def watch(self, flow: jax.Array, size: tuple[int, int]) -> jax.Array:
        """What it is told of encoded flow at half the size [B, H / 2, W / 2, 2]: [B, *size, 1]."""
        moving = nn.sigmoid(jax.lax.stop_gradient(self.motion(flow)))
        return bilinear(moving, size).astype(self.dtype or jnp.float32)

    def tell(self, pictures: jax.Array, flow: jax.Array) -> jax.Array:
        """Both, joined: [B, h, w, appearance + 1] of pictures and of flow at half the size."""
        looks = self.look(pictures)
        return jnp.concatenate([looks, self.watch(flow, looks.shape[1:3])], axis=-1)

    def step(self, state: jax.Array, told: jax.Array) -> jax.Array:
        """The memory's state [B, h, w, hidden] after one more frame, in either direction."""
        return self.gru(told[:, None], initial=state)[:, 0]

    def decide(self, *states: jax.Array) -> jax.Array:
        """Logits [..., h, w, 1] of the state from before and, bidirectional, of that from after."""
        x = jnp.concatenate(states, axis=-1)
        two = self.classify(self.merge(x) if self.bidirectional else x).astype(jnp.float32)
        return two[..., 1:] - two[..., :1]  # a softmax of two is the sigmoid of their difference


def _per_frame(function: Callable[[jax.Array], jax.Array], clips: jax.Array) -> jax.Array:
    """What a function of pictures [N, H, W, C] says of clips [B, T, H, W, C]."""
    made = function(clips.reshape(-1, *clips.shape[2:]))
    return made.reshape(*clips.shape[:2], *made.shape[1:])


def halved(flow: jax.Array) -> jax.Array:
    """Every second place of flow [..., H, W, 2] along both axes."""
    return flow[..., ::2, ::2, :]


def stopped(draws: jax.Array, time: int, share: float, count: int) -> tuple[jax.Array, jax.Array]:
    """(Which frame each of a clip's is a copy of, [B, T]; whether it is its own, [B, T] bool).

    Args:
        draws: [B] in [0, 1); below `share` the clip has an object that stands still: below half of
            it at the end, else at the beginning.
        time: T.
        share: Of the clips.
        count: How many frames become copies; one is always left as it is.
    """
    count = min(count, time - 1)
    times, draws = jnp.arange(time)[None], draws[:, None]
    ends = jnp.minimum(times, time - 1 - count)
    begins = jnp.maximum(times, count)
    source = jnp.where(draws < share, jnp.where(draws < share / 2, ends, begins), times)
    return source, source == times


def at_source(clips: jax.Array, source: jax.Array) -> jax.Array:
    """Clips [B, T, ...] of the frames `source` [B, T] of themselves."""
    index = source.reshape(*source.shape, *(1,) * (clips.ndim - 2))
    return jnp.take_along_axis(clips, index, axis=1)


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Cross entropy of what is trained, the mean over places and frames.

    "masks" [B, T, H, W, 1] or, of stills, "mask" [B, H, W, 1]. Where copies of a frame took the
    place of others, they took the place of the masks too.
    """
    masks = batch["masks"] if "masks" in batch else batch["mask"][:, None]
    kind = "video_loss" if "masks" in batch else "image_loss"
    if "memory" in outputs:
        logits, source = outputs["memory"], outputs["source"]
        masks = jnp.broadcast_to(masks, (*source.shape, *masks.shape[2:]))
        small = nearest(at_source(masks, source), logits.shape[2:4])
        total = cross_entropy(logits, small)
    elif "masks" in batch and "motion" in outputs:
        logits = outputs["motion"]
        total = motion_loss(logits, masks[:, : logits.shape[1]])
    elif "mask" in batch and "objects" in outputs:
        logits = outputs["objects"]
        total = cross_entropy(logits, nearest(masks, logits.shape[2:4]))
    else:
        raise ValueError(
            "LVO without its memory learns motion from clips of two frames and more, and objects "
            f"from single stills (data.copies=1); it answered with {sorted(outputs)}."
        )
    return total, {kind: total}


@partial(jax.jit, static_argnames="model")
def _tell(
    model: LVO, variables: Variables, pictures: jax.Array, flow: jax.Array, diagonal: jax.Array
) -> jax.Array:
    """What the memory is told [B, h, w, C] of pictures [B, H, W, 3] uint8 and flow [B, H / 2, W /
    2, 2] in pixels of frames of a diagonal [B]."""
    encoded = prepare_flow(flow, diagonal=diagonal.reshape(-1, 1, 1))
    return model.apply(variables, prepare(pictures), encoded, method="tell")


@partial(jax.jit, static_argnames="model")
def _step(model: LVO, variables: Variables, state: jax.Array, told: jax.Array) -> jax.Array:
    """The next state [1, h, w, hidden]."""
    return model.apply(variables, state, told, method="step")


@partial(jax.jit, static_argnames="model")
def _decide(model: LVO, variables: Variables, *states: jax.Array) -> jax.Array:
    """Probabilities [h, w] of one frame's states [1, h, w, hidden]."""
    return nn.sigmoid(model.apply(variables, *states, method="decide"))[0, ..., 0]


@partial(jax.jit, static_argnames="size")
def _enlarged(scores: jax.Array, size: tuple[int, int]) -> jax.Array:
    return bilinear(scores[..., None], size, align_corners=True)[..., 0]


def segmenter(
    model: LVO,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    batch: int = 1,
) -> Segmenter:
    """Lets the memory read the whole video, both ways, and decides each frame of both its states.

    Frames and flow go through the streams once; the memory takes a frame a call, so that any
    length compiles once.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to, without regard to their aspect; flow to half of that.
        batch: Frames a compiled call of the streams. The last one is padded.
    """
    size, half = tuple(size), tuple(-(-side // 2) for side in size)
    tell = partial(_tell, model, variables)
    step, decide = partial(_step, model, variables), partial(_decide, model, variables)

    def inputs(video: Video) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for t, field in enumerate(flow_of_each_frame(video)):
            diagonal = np.hypot(*np.float32(field.shape[:2])).reshape(1)
            yield fit(video.frames[t], size), places_of(field, half), diagonal

    def read(told: Iterator[jax.Array]) -> Iterator[tuple[jax.Array, jax.Array]]:
        """(What was told of a frame, the state after it), one frame after the other."""
        state = None
        for each in told:
            if state is None:
                state = jnp.zeros((1, *each.shape[:2], model.hidden))
            state = step(state, each[None])
            yield each, state

    def both_ways(told: Iterator[jax.Array]) -> list[np.ndarray]:
        # On the host: of a long video the device could not hold it all.
        kept = [(np.asarray(each), np.asarray(state)) for each, state in read(told)]
        before = [state for _, state in kept]
        from_end = read(each for each, _ in reversed(kept))
        after = zip(reversed(before), from_end, strict=True)
        return [np.asarray(decide(first, then)) for first, (_, then) in after][::-1]

    def segment(video: Video) -> Iterator[np.ndarray]:
        check_flow(video, "LVO")
        frame = video.frames[0].shape[:2]
        told = batched(tell, inputs(video), batch=batch)
        if model.bidirectional:
            maps = iter(both_ways(told))
        else:
            maps = (decide(state) for _, state in read(told))
        for scores in maps:
            yield np.asarray(_enlarged(scores, frame))

    return segment


NAMES = (
    *((pattern, f"deeplab/{path}") for pattern, path in deeplab_v1.NAMES),
    *((rf"motion\.{pattern}", f"motion/{path}") for pattern, path in motion_pattern.NAMES),
)

SYSTEM = System(
    title="LVO (Tokmakov et al., ICCV 2017): appearance and motion in a memory read both ways",
    model=LVO,
    inputs={"frames": prepare, "flow": prepare_flow},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="deeplab/vgg",
    facts=Facts(
        needs="frames, flow",
        trained="DAVIS-2016 (streams: VOC, FlyingThings3D)",
        reported="75.9 / 72.1 with CRF",
        error="its ConvGRU 2.8e-7, never released",
    ),
    reads=("flow",),
    shapes=lambda model: {"frames": (1, 2, 65, 97, 3), "flow": (1, 2, 65, 97, 2)},
)
