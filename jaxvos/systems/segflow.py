"""SegFlow: one network segments a frame and estimates its flow, each from what both have seen.

Cheng, Tsai, Wang, Yang, "SegFlow: Joint Learning for Video Object Segmentation and Optical Flow",
ICCV 2017. A ResNet-101 sees the frame, FlowNetS the frame and the next one. Maps of FlowNetS's
decoder at three sizes, pooled, are joined to those of the ResNet; two heads of equal form read
the joined maps, one scores of object and ground, the other flow.

Where the released code and the paper differ (we follow the code, on which the parity case stands):
- The flow head takes the flow's maps from their corner where the other one takes their middle.
- Enlarging between the flow's grid and the frame's, half a pixel along one axis is measured in
  the other one's pixels (`resample`).
- The ResNet's pooling is not padded, its BatchNorm keeps ImageNet's statistics in training too.
- What was released trains the segmentation alone: a sum over pixels, not balanced, FlowNet fixed.
  Of the paper's joint training lambda is not known (here 1), and errors are means over pixels. It
  is what `loss` has where the batch has flow.
- FlowNet's data layer takes its own mean colour off as well, re-estimated in its first 1000 steps;
  here it is 0 unless published weights bring it.
- The released program pairs frames in the order in which the folder lists them; ours are in order.

What its users stumble on: a frame's sides must let every crop fit (`check_sides`; 480 x 854 do, 97
does not); the last frame is paired with itself, and says that nothing moves.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos import torch_import
from jaxvos.first_mask import tuned, with_first_mask
from jaxvos.inference import batched, fit, to_size
from jaxvos.layers.flownet import SCALE, STRIDE, FlowNetS, between, length, resample
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.pooling import max_pool
from jaxvos.layers.resnet import BatchNorm, Stage
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (480, 854)
LAMBDA = 1.0
"""What a pixel's end point error counts of its cross entropy."""
TUNED = ("resnet", "segmentation")
"""Parts that a video's first mask tunes; FlowNet stays as it is."""

Outputs = dict[str, jax.Array]


def flow_grid(size: tuple[int, int]) -> tuple[int, int]:
    """What FlowNetS sees frames (H, W) at: multiples of 64, by 32 or more larger."""
    return tuple(-(-(side + STRIDE // 2) // STRIDE) * STRIDE for side in size)


def check_sides(size: tuple[int, int]) -> None:
    """Refuses frames (H, W) whose scores at 1/8, times eight, do not cover them."""
    for side in size:
        pooled = -(-(-(-side // 2) - 3) // 2) + 1
        if pooled < 1 or 8 * -(-pooled // 2) < side:
            raise ValueError(
                f"SegFlow cannot read frames of {tuple(size)}: of a side of {side} the last pixels "
                "get no score. Sides that are multiples of 16 are read, and 854."
            )


def upscore(x: jax.Array, factor: int, size: tuple[int, int]) -> jax.Array:
    """Maps [B, h, w, C] `factor` times as large, cut to [B, H, W, C], fading out at the far edges.

    It is the fixed transposed convolution of twice the factor's width without its first `factor`
    rows and columns, float32: place i is (i + 1/2) / factor of the old ones.
    """
    rows, columns = (
        jnp.asarray(between((np.arange(new) + 0.5) / factor, old), jnp.float32)
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x.astype(jnp.float32))


class Encoder(nn.Module):
    """A ResNet as Caffe has it: [B, H, W, 3] -> stages 3, 4 and 5, at 1/8, 1/16 and 1/32."""

    depths: Sequence[int]
    width: int
    remat: bool
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        norm = BatchNorm(use_running_average=True, dtype=self.dtype, name="bn1")
        side, pad = (7, 7), 3
        x = nn.Conv(self.width, side, 2, pad, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = max_pool(nn.relu(norm(x)), 3, 2, 0, ceil=True)
        self.sow("intermediates", "pooled", x)
        maps = []
        for i, depth in enumerate(self.depths):
            stage = partial(Stage, depth, self.width * 2**i, min(i, 1) + 1, 1, remat=self.remat)
            x = stage(dtype=self.dtype, name=f"layer{i + 1}")(x, False)
            maps.append(x)
        return maps[1:]


class Scale(nn.Module):
    """A factor for each channel, fixed in training: [B, h, w, C] -> alike."""

    value: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.constant(self.value), (x.shape[-1],))
        return x * scale.astype(x.dtype).reshape(1, 1, 1, -1)


class Mean(nn.Module):
    """Takes the stored mean colour off pictures [B, H, W, 3]."""

    @nn.compact
    def __call__(self, pictures: jax.Array) -> jax.Array:
        mean = self.variable("batch_stats", "mean", jnp.zeros, (pictures.shape[-1],))
        return pictures - mean.value.reshape(1, 1, 1, -1)


class Head(nn.Module):
    """Two channels [B, H, W, 2] float32 off joined maps at 1/32, 1/16 and 1/8, summed from coarse
    to fine."""

    dtype: DType | None

    @nn.compact
    def __call__(self, joined: Sequence[jax.Array], size: tuple[int, int]) -> jax.Array:
        total = None
        for number, x in zip((5, 4, 3), joined, strict=True):
            init = nn.initializers.normal(0.01)
            score = nn.Conv(
                2, (1, 1), kernel_init=init, dtype=self.dtype, name=f"score_res{number}"
            )(x).astype(jnp.float32)
            total = score if total is None else upscore(total, 2, x.shape[1:3]) + score
            self.sow("intermediates", "fused", total)
        return upscore(total, 8, size)


class SegFlow(nn.Module):
    """The network.

    Attributes:
        depths: Blocks of the ResNet's stages; (3, 4, 23, 3) is the published ResNet-101.
        width: The ResNet's stem channels (published: 64).
        flow_width: Channels of FlowNetS's first convolution (published: 64).
        remat: Compute the ResNet's insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters, scores and flow stay float32.
    """

    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    flow_width: int = 64
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        self.resnet = Encoder(self.depths, self.width, self.remat, self.dtype)
        self.mean0, self.mean1 = Mean(), Mean()
        self.flownet = FlowNetS(self.flow_width, self.dtype)
        self.flow_final = nn.Conv(2, (1, 1))
        self.scale_res4, self.scale_res3 = Scale(0.01), Scale(0.0001)
        self.segmentation, self.motion = Head(self.dtype), Head(self.dtype)

    def __call__(self, frames: jax.Array, train: bool = False) -> Outputs:
        """Of all frames but the last: "score" [B, T - 1, H, W, 2], logits of ground and object, and
        "flow" to the next one, alike, in pixels (x, y). A single frame is paired with itself.

        Args:
            frames: Prepared clips [B, T, H, W, 3].
            train: Changes nothing; BatchNorm's statistics are fixed.
        """
        del train
        count = max(frames.shape[1] - 1, 1)
        first, second = frames[:, :count], frames[:, -count:]
        flat = (x.reshape(-1, *x.shape[2:]) for x in (first, second))
        return {k: v.reshape(-1, count, *v.shape[1:]) for k, v in self.look(*flat).items()}

    def look(self, first: jax.Array, second: jax.Array) -> Outputs:
        """The same of pairs of prepared pictures, both [B, H, W, 3]: [B, H, W, 2]."""
        size = first.shape[1:3]
        check_sides(size)
        res3, res4, res5 = self.resnet(first)
        seen = self.moving(first, second)
        scaled = (res5, self.scale_res4(res4), self.scale_res3(res3))
        of_score, of_flow = (
            [_join(a, b, offset) for a, b, offset in zip(scaled, seen, offsets, strict=True)]
            for offsets in ((1, 2, 4), (1, 0, 0))
        )
        return {"score": self.segmentation(of_score, size), "flow": self.motion(of_flow, size)}

    def moving(self, first: jax.Array, second: jax.Array) -> list[jax.Array]:
        """FlowNetS's features, pooled, at 1/32, 1/16 and 1/8 of its grid."""
        pictures = [self.mean0(first / 255), self.mean1(second / 255)]
        grid = flow_grid(first.shape[1:3])
        pair = jnp.concatenate([resample(x, grid) for x in pictures], axis=-1)
        flows, joined = self.flownet(pair)
        own = resample(SCALE * flows[0], first.shape[1:3])
        # Published with the checkpoint, though neither head reads FlowNetS's own flow.
        self.sow("intermediates", "own_flow", (pictures[0], pair, own, self.flow_final(own)))
        return [max_pool(x, 3, 2, 0, ceil=True) for x in joined[2::-1]]


def _join(maps: jax.Array, moving: jax.Array, offset: int) -> jax.Array:
    """Maps [B, h, w, C], and of others as many places from (offset, offset) on, side by side."""
    height, width = maps.shape[1:3]
    window = moving[:, offset : offset + height, offset : offset + width]
    return jnp.concatenate([maps, window.astype(maps.dtype)], axis=-1)


def cross_entropy(score: jax.Array, mask: jax.Array, *, balanced: bool = False) -> jax.Array:
    """Sum over pixels [...] of scores [..., H, W, 2] and masks [..., H, W, 1] in {0, 1}.

    If `balanced`, a class counts the more the fewer of the picture's pixels are of it: 1 - its
    share of them. A picture of one class then counts nothing.
    """
    logs = nn.log_softmax(score, axis=-1)
    entropy = -jnp.where(mask > 0, logs[..., 1:], logs[..., :1])
    if balanced:
        share = mask.mean(axis=(-3, -2, -1), keepdims=True)
        entropy = entropy * jnp.where(mask > 0, 1 - share, share)
    return entropy.sum(axis=(-3, -2, -1))


def end_point_error(found: jax.Array, flow: jax.Array) -> jax.Array:
    """Mean distance of flow and flow [..., H, W, 2] in pixels, over where it is known, not NaN."""
    known = jnp.isfinite(flow).all(axis=-1)
    distance = length(found - jnp.where(known[..., None], flow, 0.0))
    return jnp.where(known, distance, 0.0).sum() / jnp.maximum(known.sum(), 1)


def loss(outputs: Outputs, batch: Batch) -> tuple[jax.Array, Metrics]:
    """As released, the cross entropy's sum over pixels; where the batch has flow, as in the paper:
    the balanced one's mean, plus LAMBDA times the flow's error.

    A step on still images has one `mask`; its flow is zero.
    """
    score = outputs["score"]
    count = score.shape[1]
    mask = batch["masks"][:, :count] if "masks" in batch else batch["mask"][:, None]
    mask = jnp.broadcast_to(mask, (*score.shape[:-1], 1))
    kind = "video_loss" if "masks" in batch else "image_loss"
    if "flow" not in batch:
        total = cross_entropy(score, mask).mean()
        return total, {kind: total / (score.shape[2] * score.shape[3])}
    entropy = cross_entropy(score, mask, balanced=True).mean() / (score.shape[2] * score.shape[3])
    error = end_point_error(outputs["flow"], batch["flow"][:, :count])
    total = entropy + LAMBDA * error
    return total, {kind: total, "segmentation_loss": entropy, "end_point_error": error}


@partial(jax.jit, static_argnames="model")
def _score(model: SegFlow, variables: Variables, pairs: jax.Array) -> jax.Array:
    """Probabilities [B, H, W] of the first of two pictures [B, 2, H, W, 3] uint8."""
    outputs = model.apply(variables, prepare(pairs))
    return nn.softmax(outputs["score"][:, 0], axis=-1)[..., 1]


def _first_mask_loss(
    model: SegFlow, variables: Variables, pair: jax.Array, mask: jax.Array
) -> jax.Array:
    """The released loss of a pair [2, H, W, 3] uint8 and the first one's mask [H, W] in {0, 1}."""
    outputs = model.apply(variables, prepare(pair)[None])
    return cross_entropy(outputs["score"][0, 0], mask[..., None])


def learned(
    model: SegFlow,
    variables: Variables,
    video: Video,
    size: tuple[int, int],
    *,
    steps: int,
    rate: float,
) -> Variables:
    """Variables after `steps` on the video's first frame and its mask, every second one mirrored.

    The ResNet and the head of the segmentation learn.
    """
    pair = next(_pairs(video, size))
    object_ = np.asarray(video.first_mask > 0, np.uint8)
    mask = (fit(255 * object_, size) > 127).astype(np.float32)
    examples = ((pair, mask), (pair[:, :, ::-1], mask[:, ::-1]))
    return tuned(_first_mask_loss, model, variables, examples, parts=TUNED, steps=steps, rate=rate)


def _pairs(video: Video, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """For each frame it and the next one at `size`, [2, H, W, 3]; the last one twice."""
    before = None
    for t in range(len(video.frames)):
        now = fit(video.frames[t], size)
        if before is not None:
            yield np.stack([before, now])
        before = now
    if before is not None:
        yield np.stack([before, before])


def segmenter(
    model: SegFlow,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    tuning: int = 0,
    mask: str | None = None,
    rate: float = 1e-9,
    batch: int = 1,
) -> Segmenter:
    """Segments each frame by itself and the next one; the last one by itself alone.

    Args:
        model: The network.
        variables: Its weights.
        size: What frames are resized to, without regard to their aspect.
        tuning: Steps on the video's first mask before it is segmented (semi-supervised); 0 for
            none. What was learned is forgotten after the video.
        mask: Where that mask is, unless the video brings it: a label map; or a folder of
            VIDEO/*.png (DAVIS's Annotations/480p), whose first one is taken.
        rate: Of these steps; the loss is a sum over pixels, hence as small.
        batch: Frames a compiled call. The last one is padded, so any length compiles once.
    """
    size = tuple(size)
    check_sides(size)
    if tuning < 0:
        raise ValueError(f"tuning={tuning}: it is a number of steps, 0 for none.")

    def segment(video: Video) -> Iterator[np.ndarray]:
        own = variables
        if tuning and len(video.frames):
            video = with_first_mask(video, mask)
            own = learned(model, variables, video, size, steps=tuning, rate=rate)
        maps = batched(partial(_score, model, own), _pairs(video, size), batch=batch)
        for t, scores in enumerate(maps):
            yield to_size(scores, video.frames[t].shape[:2])

    return segment


# res4b22_branch2a is the first convolution of block 22 of the third stage; letters count too.
NAMES = (
    *torch_import.caffe_resnet("resnet"),
    (r"img([01])s_aug", r"mean\1"),
    (r"conv1_flowS", r"flownet/shallow/conv1"),
    (r"(conv[23])", r"flownet/shallow/\1"),
    (r"(conv3_1|conv[456](?:_1)?)", r"flownet/deep/\1"),
    (r"(deconv[2-5])", r"flownet/refinement/\1"),
    *((f"Convolution{i}", f"flownet/refinement/predict_flow{7 - i}") for i in range(1, 6)),
    (r"upsample_flow(\d)to(\d)", r"flownet/refinement/upsampled_flow\1_to_\2"),
    (r"Convolution6", r"flow_final"),
    (r"(scale_res[34])", r"\1"),
    (r"(score_res[345])_con", r"segmentation/\1"),
    (r"(score_res[345])_con_flow", r"motion/\1"),
    (r"upscore.*", r""),  # fixed: `upscore`
)


def shapes(model: SegFlow) -> dict[str, tuple[int, ...]]:
    """The shape of a small clip that the network reads."""
    del model
    return {"frames": (1, 2, 32, 32, 3)}


SYSTEM = System(
    title="SegFlow (Cheng et al., ICCV 2017): masks and flow by one network, each helps the other",
    model=SegFlow,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="resnet",
    facts=Facts(
        needs="frames",
        trained="DAVIS-2016; FlowNetS",
        reported="67.4 / 66.7 without CRF",
        error="3.6e-6 (67)",
    ),
    shapes=shapes,
)
