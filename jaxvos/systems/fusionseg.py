"""FusionSeg: what looks like an object, what moves, and a small network that joins the two.

Jain, Xiong, Grauman, "FusionSeg: Learning to combine motion and appearance for fully automatic
segmentation of generic objects in videos", CVPR 2017. Two networks of one kind, DeepLab v2 for two
classes, answer by themselves: one of the frame (it is known as "Pixel Objectness"), one of the
picture of its flow. Their logits, at the frame's size, are all that the joint stream is given. The
motion stream learned from no masks drawn by hand, but from the appearance stream's own, where boxes
and flow agree with them (`data_pipelines/box_labels.py`).

Where the released code (for Caffe) and the paper differ (we follow the code, on which the parity
case stands), and where we do:
- The paper joins by a 1x1 convolution with ReLU on each stream and on their product, and takes the
  largest (`paper_joint`; that logits are multiplied, not probabilities, is our reading). The
  released stream has 3x3 convolutions on each and on both side by side, sums these up, and has one
  more. There are two of it: "davis_train" is for DAVIS's val videos, "davis_val" for the others.
- Frames are never resized. Smaller ones than 289 x 513 lie in the corner of a black picture.
- Answers end with the last eighth pixel that a feature lies on: 854 columns get 849, and so have
  the released masks. Here the last column and row are repeated as far as the frame goes, unless
  `short` leaves them without any object.
- Probabilities overflowed for large logits. Not here.
- Flow was Ce Liu's; here it is the video's. Its longest vector in a frame has the full colour, and
  no other one is darker by rounding.
- Of the training no code was released. BatchNorm keeps ImageNet's statistics (`fixed_norm`), as in
  every DeepLab for Caffe; the streams are kept while the joint one learns. In training flow is
  drawn at the size of training, of a window if that was cut out.

The published weights are three .caffemodel files whose layers have names in common. `published`
makes one of them; `jaxvos convert` reads it, or that of one stream with `--set stream=appearance
--set alone=True`:

    numpy.savez("fusionseg.npz", **published(APPEARANCE, MOTION, JOINT))

What its users stumble on: the flow's picture has no scale, so that where nothing moves noise has
the brightest colours. The last frame's flow leads back to the one before, as released, whose
colours are then the opposite ones; `back` says what a folder of flow gives instead.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos import torch_import
from jaxvos.flow.colour import picture
from jaxvos.flow.each_frame import check_flow
from jaxvos.inference import batched
from jaxvos.layers.flow_pictures import wheel_picture
from jaxvos.layers.pixels import caffe_bgr as prepare
from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import ResNet
from jaxvos.losses import cross_entropy
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

CANVAS = (289, 513)
STREAMS = ("appearance", "motion", "joint")
EPS = float(np.finfo(np.float64).eps)  # beside the longest vector, as in the colour code
GAUSS = nn.initializers.normal(0.01)


def prepare_flow(flow: jax.Array) -> jax.Array:
    """Flow [..., H, W, 2] in pixels -> its colour wheel picture [..., H, W, 3], prepared."""
    return prepare(wheel_picture(flow, eps=EPS))


class Stream(nn.Module):
    """DeepLab v2 for two classes: prepared pictures [B, H, W, 3] -> logits [B, h, w, 2] float32.

    The first class is the background. Logits are enlarged eight times and end on the last feature:
    (h, w) is (H, W) where that is one more than a multiple of 8, else two more to five less.
    """

    depths: Sequence[int]
    width: int
    rates: Sequence[int]
    fixed_norm: bool
    remat: bool
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        resnet = ResNet(self.depths, self.width, remat=self.remat, dtype=self.dtype, name="resnet")
        x = resnet(x, train and not self.fixed_norm)
        conv = partial(nn.Conv, kernel_size=(3, 3), kernel_init=GAUSS, dtype=self.dtype)
        scales = [
            conv(2, kernel_dilation=rate, padding=rate, name=f"fc1_c{i}")(x)
            for i, rate in enumerate(self.rates)
        ]
        small = sum(scales).astype(jnp.float32)
        self.sow("intermediates", "small", small)
        size = tuple(8 * (side - 1) + 1 for side in small.shape[1:3])
        return bilinear(small, size, align_corners=True)


class Joint(nn.Module):
    """Logits of both streams, [B, h, w, 2] each -> logits of the two classes [B, h, w, 2] float32.

    Attributes:
        paper: Whether it is the paper's; else the released one.
    """

    paper: bool
    dtype: DType | None

    @nn.compact
    def __call__(self, appearance: jax.Array, motion: jax.Array) -> jax.Array:
        conv = partial(nn.Conv, kernel_init=GAUSS, dtype=self.dtype)
        if self.paper:
            each = {"conv1": appearance * motion, "conva": appearance, "convm": motion}
            seen = [nn.relu(conv(2, (1, 1), name=name)(x)) for name, x in each.items()]
            return jnp.stack(seen).max(axis=0).astype(jnp.float32)
        both = jnp.concatenate([appearance, motion], axis=-1)
        each = {"conv1": both, "conva": appearance, "convm": motion}
        conv = partial(conv, kernel_size=(3, 3), padding=1)
        seen = sum(nn.relu(conv(4, name=name)(x)) for name, x in each.items())
        self.sow("intermediates", "conv_sum", seen)
        return conv(2, name="conv2")(seen).astype(jnp.float32)


class FusionSeg(nn.Module):
    """The three streams, of which one answers.

    Attributes:
        stream: Which: "appearance", "motion" or "joint".
        alone: Whether there are only the weights that this one needs. Stages of a training go on
            with each other's, so there all three are kept, whichever is trained.
        paper_joint: Whether the joint stream is the paper's instead of the released one.
        depths: Blocks of the ResNets' stages; (3, 4, 23, 3) is the published ResNet-101.
        width: The ResNets' stem channels (published: 64).
        rates: Dilations of the convolutions that are summed up in the end.
        fixed_norm: Whether BatchNorm uses the statistics it was loaded with in training too.
        remat: Compute the ResNets' insides again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters and logits stay float32.
    """

    stream: str = "joint"
    alone: bool = False
    paper_joint: bool = False
    depths: Sequence[int] = (3, 4, 23, 3)
    width: int = 64
    rates: Sequence[int] = (6, 12, 18, 24)
    fixed_norm: bool = True
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        if self.stream not in STREAMS:
            raise ValueError(f"FusionSeg's streams are {', '.join(STREAMS)}, not {self.stream!r}.")
        sizes = self.depths, self.width, self.rates, self.fixed_norm, self.remat, self.dtype
        self.appearance, self.motion = Stream(*sizes), Stream(*sizes)
        self.joint = Joint(self.paper_joint, self.dtype)

    def __call__(
        self, frames: jax.Array, flow: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Logits of the stream by its name, [B, N, h, w, 1] float32, of N = T frames.

        Where motion counts the last of several frames, whose flow is not known, is left out: there
        N = T - 1. A side is up to five pixels shorter than the pictures'.

        Args:
            frames: Prepared pictures [B, T, H, W, 3].
            flow: Prepared pictures of the flow, alike.
            train: Whether a stream's BatchNorm, unless fixed, uses and updates the batch's
                statistics.
        """
        time = frames.shape[1]
        count = time if self.stream == "appearance" else max(time - 1, 1)
        flat = [x[:, :count].reshape(-1, *x.shape[2:]) for x in (frames, flow)]
        if self.is_initializing() and not self.alone and self.stream != "joint":
            self.join(*flat)
        two = self.segment(*flat, train)
        logits = two[..., 1:] - two[..., :1]  # a softmax of two is the sigmoid of their difference
        return {self.stream: logits.reshape(-1, count, *logits.shape[1:])}

    def segment(self, frames: jax.Array, flow: jax.Array, train: bool = False) -> jax.Array:
        """The stream's logits of both classes, [B, h, w, 2], of frames and flow [B, H, W, 3]."""
        if self.stream == "joint":
            return self.join(frames, flow)
        pictures, network = (
            (frames, self.appearance) if self.stream == "appearance" else (flow, self.motion)
        )
        return cropped(network(pictures, train), pictures.shape[1:3])

    def join(self, frames: jax.Array, flow: jax.Array) -> jax.Array:
        """The joint stream's; no gradient goes into the other two."""
        size = frames.shape[1:3]
        both = (cropped(self.appearance(frames), size), cropped(self.motion(flow), size))
        return self.joint(*jax.lax.stop_gradient(both))

    def fuse(self, appearance: jax.Array, motion: jax.Array) -> jax.Array:
        """The joint stream's of the others' logits [B, h, w, 2]."""
        return self.joint(appearance, motion)


def cropped(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps [..., h, w, C], at most `size` of them."""
    return maps[..., : size[0], : size[1], :]


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Cross entropy of the stream, the mean over the pixels that it answers for.

    "masks" [B, T, H, W, 1] or, of stills, which teach the appearance alone, "mask" [B, H, W, 1].
    """
    ((stream, logits),) = outputs.items()
    if "masks" not in batch and stream != "appearance":
        raise ValueError(
            f"FusionSeg's {stream} stream learns from motion, which still images have not: "
            "data.image_every=0."
        )
    masks = batch["masks"] if "masks" in batch else batch["mask"][:, None]
    masks = cropped(masks[:, : logits.shape[1]], logits.shape[2:4])
    total = cross_entropy(logits, jnp.broadcast_to(masks, logits.shape))
    return total, {f"{stream}_loss": total}


@partial(jax.jit, static_argnames=("model", "size", "short"))
def _score(
    model: FusionSeg,
    variables: Variables,
    frames: jax.Array,
    flow: jax.Array,
    *,
    size: tuple[int, int],
    short: bool,
) -> jax.Array:
    """Probabilities [B, *size] of pictures [B, H, W, 3] uint8; a corner of `size` is the frame."""

    def join(module: FusionSeg, frames: jax.Array, flow: jax.Array) -> jax.Array:
        # Cut before they are joined: the joint stream sees the frame's edge.
        looks = cropped(module.appearance(frames), size)
        return module.fuse(looks, cropped(module.motion(flow), size))

    method = join if model.stream == "joint" else "segment"
    two = cropped(model.apply(variables, prepare(frames), prepare(flow), method=method), size)
    scores = nn.sigmoid(two[..., 1] - two[..., 0])
    missing = [(0, all_ - found) for all_, found in zip(size, scores.shape[1:], strict=True)]
    return jnp.pad(scores, ((0, 0), *missing), mode="constant" if short else "edge")


def on_canvas(frame: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """A frame [H, W, 3] uint8 in the upper left corner of a black one of at least `canvas`."""
    below, beside = (
        max(least - side, 0) for least, side in zip(canvas, frame.shape[:2], strict=True)
    )
    return np.pad(frame, ((0, below), (0, beside), (0, 0)))


def last_flow(video: Video, back: bool) -> np.ndarray:
    """[H, W, 2] of the last frame: to the one before it, or the flow from there turned round."""
    last = len(video.frames) - 1
    if last < 1:
        return np.zeros((*video.frames[0].shape[:2], 2), np.float32)
    if not back or not hasattr(video.flow, "between"):
        return -np.asarray(video.flow[last - 1])
    try:
        return video.flow.between(last, last - 1)
    except ValueError as error:
        raise ValueError(
            f"{error} Or give back=False: the last frame's flow is then that of the frame before, "
            "turned round."
        ) from error


def segmenter(
    model: FusionSeg,
    variables: Variables,
    *,
    canvas: tuple[int, int] = CANVAS,
    short: bool = False,
    back: bool = True,
    batch: int = 1,
) -> Segmenter:
    """Segments each frame by itself and the picture of its flow to the next one.

    A video of one frame takes flow of zero, whose picture is white. The appearance stream needs no
    flow. Frames keep their size, so each size there is compiles once.

    Args:
        model: The network; its `stream` says which answers.
        variables: Its weights.
        canvas: What smaller frames are filled up to with black, (H, W).
        short: Leave columns and rows that the network does not reach, up to five on the right and
            at the bottom, without any object; the released masks lack them.
        back: Estimate the flow of the last frame, to the one before it, as released. False, and
            where the flow is a list of given fields: the flow of the frame before, turned round.
        batch: Frames a compiled call. The last one is padded.
    """
    canvas = tuple(canvas)

    def inputs(video: Video) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        moves = model.stream != "appearance"
        last = len(video.frames) - 1
        # First, since a folder may not have it.
        final = last_flow(video, back) if moves and last >= 0 else None
        for t in range(last + 1):
            frame = on_canvas(video.frames[t], canvas)
            if not moves:
                yield frame, frame
                continue
            field = video.flow[t] if t < last else final
            yield frame, on_canvas(picture(field, eps=EPS), canvas)

    def segment(video: Video) -> Iterator[np.ndarray]:
        if model.stream != "appearance":
            check_flow(video, "FusionSeg", "the stream that looks alone, stream=appearance")
        size = video.frames[0].shape[:2]
        score = partial(_score, model, variables, size=tuple(size), short=short)
        for scores in batched(score, inputs(video), batch=batch):
            yield np.asarray(scores)

    return segment


def published(appearance: Path, motion: Path, joint: Path) -> dict[str, np.ndarray]:
    """The tensors of the three published files by STREAM/LAYER.KIND, which `NAMES` knows."""
    files = zip(STREAMS, (appearance, motion, joint), strict=True)
    return {
        f"{stream}/{name}": tensor
        for stream, file in files
        for name, tensor in torch_import.read(file).items()
    }


def _stream(ours: str, last: str, head: str) -> torch_import.Names:
    """Names of a stream's layers, all of which end in `last`."""
    begin = f"(?:{ours}/)?"
    return (
        *torch_import.caffe_resnet(f"{ours}/resnet", begin=begin, last=last),
        (f"{begin}{head}_c([0-3]){last}", rf"{ours}/fc1_c\1"),
    )


NAMES = (
    *_stream("appearance", "", "fc1_binary_seg"),
    *_stream("motion", "_motion", "fc1_binary_seg_flow"),
    (r"joint/(conv[12am])", r"joint/\1"),
)

SYSTEM = System(
    title="FusionSeg (Jain et al., CVPR 2017): appearance and motion, each alone, then joined",
    model=FusionSeg,
    inputs={"frames": prepare, "flow": prepare_flow},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="appearance/resnet+motion/resnet",
    facts=Facts(
        needs="frames, flow",
        trained="VOC, ImageNet-VID's boxes, DAVIS-2016",
        reported="70.7 / 65.3",
        error="5.8e-6 (53)",
    ),
    reads=("flow",),
    shapes=lambda model: {"frames": (1, 1, 33, 49, 3), "flow": (1, 1, 33, 49, 2)},
)
