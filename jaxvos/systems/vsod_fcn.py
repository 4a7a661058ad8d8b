"""VSOD-FCN: a network looks at a frame alone, a second one at two frames with the first one's map.

Wang, Shen, Shao, "Video Salient Object Detection via Fully Convolutional Networks", IEEE TIP 2018.
The static network, VGG-16 with side outputs, says what stands out in a picture. The dynamic one is
the same but for its input: a frame, the next one and the static map of the frame, seven channels;
so it sees motion without being given flow. It is trained on pairs made of still pictures
(`data_pipelines/synthesis.py`) beside the few real ones.

Where the released code ("v1", for Keras) and the paper differ (we follow the code, on which the
parity case stands):
- The paper's decoder is a stack of deconvolutions with one map of full size. The code answers at
  1/16, 1/8 and 1/4; each answer's *probabilities*, repeated to twice the size, go into the next.
- The channels' means are taken off in the wrong order: blue's from red and red's from blue.
- Every map is stretched to 0..255 and saved with 8 bits, and the dynamic network reads that file,
  unscaled. A constant map, for which the code divides by zero, is black here.
- The last frame gets no answer. Ours is its pair with the frame before; and the static network's
  alone in a video of one frame.
- Nothing of the training was released. We have a loss on each of the three answers. The static
  network is kept as it is while the dynamic one learns.

The published weights are two Keras files; put both into one .npz, each layer's kernel transposed
by (3, 2, 0, 1), as "static.LAYER.weight", "static.LAYER.bias" and "dynamic.LAYER....".

What its users stumble on: every map is stretched, so that a frame without any object has one too.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxvos.inference import batched, fit
from jaxvos.layers.resize import bilinear
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

SIZE = (224, 224)
MEAN_RGB = (103.939, 116.779, 123.68)  # blue's, green's and red's: the released order
STRIDE = 16
CONVOLUTIONS = (2, 2, 3, 3, 3)
WIDER = (1, 2, 4, 8, 8)
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

Logits = tuple[jax.Array, jax.Array, jax.Array]
"""At 1/4, 1/8 and 1/16 of the picture, [B, h, w, 1] float32 each; the first one is the result."""


def prepare(pictures: jax.Array) -> jax.Array:
    """Pictures [..., H, W, 3] RGB in 0..255 -> BGR float32 minus the means, swapped."""
    mean = jnp.asarray(MEAN_RGB, jnp.float32).reshape((1,) * (pictures.ndim - 1) + (3,))
    return (pictures.astype(jnp.float32) - mean)[..., ::-1]


def as_prior(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """What the dynamic network is given of static logits [B, h, w, 1]: [B, H, W, 1] in 0..255.

    It is what `saved` does, but for the rounding; no gradient goes through it.
    """
    scores = nn.sigmoid(jax.lax.stop_gradient(logits).astype(jnp.float32))
    low = scores.min(axis=(1, 2), keepdims=True)
    large = bilinear(scores - low, size)
    high = large.max(axis=(1, 2), keepdims=True)
    return 255 * large / jnp.where(high > 0, high, 1.0)


def saved(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The 8-bit picture [H, W] that the released code saves of scores [h, w]."""
    scores = np.asarray(scores, np.float64)
    low, high = scores.min(), scores.max()
    levels = (scores - low) * (255 / (high - low) if high > low else 1.0)
    small = Image.fromarray((levels.clip(0, 255) + 0.5).astype(np.uint8))
    large = np.asarray(small.resize(size[::-1], Image.Resampling.BILINEAR))
    return (large / max(int(large.max()), 1) * 255).astype(np.uint8)


class VGG(nn.Module):
    """VGG-16's convolutions: [B, H, W, C] -> blocks 3, 4 and 5 before pooling, 1/4, 1/8, 1/16."""

    width: int
    convolutions: Sequence[int]
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        conv = partial(nn.Conv, kernel_size=(3, 3), kernel_init=HE, dtype=self.dtype)
        blocks = []
        for b, (count, wider) in enumerate(zip(self.convolutions, WIDER, strict=True), 1):
            if blocks:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for j in range(1, count + 1):
                x = nn.relu(conv(wider * self.width, padding=1, name=f"block{b}_conv{j}")(x))
            blocks.append(x)
        return tuple(blocks[2:])


class FCN(nn.Module):
    """VGG-16 that answers at three sizes, from coarse to fine: [B, H, W, C] -> `Logits`."""

    width: int
    convolutions: Sequence[int]
    side: int
    side_std: float
    remat: bool
    dtype: DType | None

    @nn.compact
    def __call__(self, x: jax.Array) -> Logits:
        init = nn.initializers.normal(self.side_std)
        conv = partial(nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=init, dtype=self.dtype)
        vgg = nn.remat(VGG) if self.remat else VGG
        fine, middle, coarse = vgg(self.width, self.convolutions, self.dtype, name="vgg")(x)
        answers = [conv(1, name="sal_conv5")(coarse).astype(jnp.float32)]
        for number, maps in ((4, middle), (3, fine)):
            own = nn.sigmoid(conv(self.side, name=f"conv{number}_out")(maps))
            coarser = nn.sigmoid(answers[-1]).repeat(2, axis=1).repeat(2, axis=2)
            joined = jnp.concatenate([own, coarser.astype(own.dtype)], axis=-1)
            answers.append(conv(1, name=f"sal_conv{number}")(joined).astype(jnp.float32))
        return tuple(reversed(answers))


class VSODFCN(nn.Module):
    """Both networks.

    Attributes:
        width: Channels of the first block (published: 64); the others have 2, 4, 8 and 8 times as
            many.
        convolutions: Of each block; (2, 2, 3, 3, 3) is VGG-16.
        side: Channels between a block and its answer (published: 64).
        side_std: Standard deviation of the first weights outside VGG.
        remat: Compute the insides of VGG again for the gradient instead of keeping them.
        dtype: What the layers compute in; parameters and logits stay float32.
    """

    width: int = 64
    convolutions: Sequence[int] = CONVOLUTIONS
    side: int = 64
    side_std: float = 0.01
    remat: bool = False
    dtype: DType | None = None

    def setup(self) -> None:
        sizes = self.width, self.convolutions, self.side, self.side_std, self.remat, self.dtype
        self.static = FCN(*sizes)
        self.dynamic = FCN(*sizes)

    def __call__(self, frames: jax.Array, train: bool = False) -> dict[str, Logits]:
        """Logits "static" of the first frames and, of two frames, "dynamic" of the first ones.

        Args:
            frames: Prepared clips [B, T, H, W, 3] of a frame and the next one, or of one picture.
            train: Changes nothing; there is no BatchNorm here.
        """
        del train
        if frames.ndim != 5 or frames.shape[1] not in (1, 2):
            raise ValueError(
                "VSOD-FCN reads clips [B, T, H, W, 3] of 2 frames (a frame and the next one) or "
                f"1 (a still picture), not {frames.shape}."
            )
        alone = self.look(frames[:, 0])
        if frames.shape[1] == 1:
            return {"static": alone}
        prior = as_prior(alone[0], frames.shape[2:4])
        return {"static": alone, "dynamic": self.compare(frames[:, 0], frames[:, 1], prior)}

    def look(self, pictures: jax.Array) -> Logits:
        """The static network's logits of pictures [B, H, W, 3]."""
        _check_sides(pictures.shape[1:3])
        return self.static(pictures)

    def compare(self, first: jax.Array, second: jax.Array, prior: jax.Array) -> Logits:
        """The dynamic network's logits of the first of two pictures [B, H, W, 3].

        Args:
            first: Prepared pictures.
            second: Those that follow them.
            prior: The first ones' static maps [B, H, W, 1], in 0..255.
        """
        _check_sides(first.shape[1:3])
        return self.dynamic(jnp.concatenate([first, second, prior.astype(first.dtype)], axis=-1))


def _check_sides(size: tuple[int, int]) -> None:
    if size[0] % STRIDE or size[1] % STRIDE:
        raise ValueError(f"VSOD-FCN reads pictures whose sides are multiples of 16, not {size}.")


def balanced(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross entropy of logits and masks [B, h, w, 1], a sum over places, a mean over the batch.

    The rarer kind of place weighs more: the foreground by the background's share of the picture
    and the background by the foreground's.
    """
    share = mask.mean(axis=(1, 2, 3), keepdims=True)
    found = (1 - share) * mask * nn.softplus(-logits)
    missed = share * (1 - mask) * nn.softplus(logits)
    return (found + missed).sum(axis=(1, 2, 3)).mean()


def loss(outputs: dict[str, Logits], batch: Batch) -> tuple[jax.Array, Metrics]:
    """The loss of the dynamic network on pairs, of the static one on pictures: all three answers.

    Masks are of pairs `masks` [B, 2, H, W, 1], of which the first one counts, and of pictures
    `masks` [B, 1, H, W, 1] or `mask` [B, H, W, 1].
    """
    kind = "dynamic" if "dynamic" in outputs and "masks" in batch else "static"
    mask = batch["masks"][:, 0] if "masks" in batch else batch["mask"]
    answers = outputs[kind]
    total = sum(balanced(logits, _shrunk(mask, logits.shape[1:3])) for logits in answers)
    off = jnp.abs(nn.sigmoid(answers[0]) - _shrunk(mask, answers[0].shape[1:3])).mean()
    return total, {f"{kind}_loss": total, f"{kind}_mae": off}


def _shrunk(mask: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Masks [B, H, W, 1] as shares of foreground in the cells of a grid (h, w)."""
    batch, height, width, _ = mask.shape
    cells = mask.reshape(batch, size[0], height // size[0], size[1], width // size[1], 1)
    return cells.mean(axis=(2, 4))


@partial(jax.jit, static_argnames="model")
def _static(model: VSODFCN, variables: Variables, pictures: jax.Array) -> jax.Array:
    """Probabilities [B, h, w] of pictures [B, H, W, 3] uint8."""
    logits = model.apply(variables, prepare(pictures), method="look")
    return nn.sigmoid(logits[0])[..., 0]


@partial(jax.jit, static_argnames="model")
def _dynamic(
    model: VSODFCN, variables: Variables, first: jax.Array, second: jax.Array, prior: jax.Array
) -> jax.Array:
    """Probabilities [B, h, w] of the first of two pictures uint8; static maps [B, H, W] uint8."""
    prior = prior[..., None].astype(jnp.float32)
    logits = model.apply(variables, prepare(first), prepare(second), prior, method="compare")
    return nn.sigmoid(logits[0])[..., 0]


def segmenter(
    model: VSODFCN,
    variables: Variables,
    *,
    size: tuple[int, int] = SIZE,
    pairs: bool = True,
    batch: int = 1,
) -> Segmenter:
    """Compares each frame with the next one, the last one with the one before.

    Scores have 256 levels, and the largest of every frame is 1 (unless all are 0).

    Args:
        model: The networks.
        variables: Their weights.
        size: What frames are squashed to, (H, W): multiples of 16.
        pairs: False asks the static network alone.
        batch: Frames a call of either network.
    """
    size = tuple(size)
    _check_sides(size)
    alone, together = partial(_static, model, variables), partial(_dynamic, model, variables)

    def segment(video: Video) -> Iterator[np.ndarray]:
        sizes: list[tuple[int, int]] = []
        if len(video.frames) == 1 or not pairs:
            small = _squashed(video, size, deque(), sizes)
            maps = batched(alone, small, batch=batch)
        else:
            maps = batched(together, _pairs(alone, video, size, batch, sizes), batch=batch)
        for t, scores in enumerate(maps):
            yield saved(np.asarray(scores), sizes[t]) / np.float32(255)

    return segment


def _squashed(
    video: Video, size: tuple[int, int], passed: deque, sizes: list[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """The frames at `size`; each is also put into `passed`, and its own size into `sizes`."""
    for t in range(len(video.frames)):
        frame = video.frames[t]
        sizes.append(frame.shape[:2])
        passed.append(fit(frame, size))
        yield passed[-1]


def _pairs(
    alone: partial, video: Video, size: tuple[int, int], batch: int, sizes: list[tuple[int, int]]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each frame (it, its neighbour, its static map) at `size`, as the files would hold them.

    Every frame is decoded once and goes once through the static network.
    """
    passed: deque[np.ndarray] = deque()
    small = _squashed(video, size, passed, sizes)
    before = picture = prior = None
    for t, scores in enumerate(batched(alone, small, batch=batch)):
        now = passed.popleft()
        if picture is not None:
            yield picture, now, prior
        before, picture = picture, now
        prior = fit(saved(np.asarray(scores), sizes[t]), size)
    if picture is not None:
        yield picture, before, prior


NAMES = (
    (r"dynamic\.block1_conv1_new", r"dynamic/vgg/block1_conv1"),
    (r"(static|dynamic)\.(block[1-5]_conv[1-3])", r"\1/vgg/\2"),
    (r"(static|dynamic)\.sal_conv_?([345])", r"\1/sal_conv\2"),
    (r"(static|dynamic)\.conv_([34])_out", r"\1/conv\2_out"),
)


def shapes(model: VSODFCN) -> dict[str, tuple[int, ...]]:
    """The shape of the smallest clip that both networks read."""
    del model
    return {"frames": (1, 2, STRIDE, STRIDE, 3)}


SYSTEM = System(
    title="VSOD-FCN (Wang et al., TIP 2018): a frame alone, then with the next one and its own map",
    model=VSODFCN,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="static/vgg",
    facts=Facts(
        needs="frames",
        trained="saliency images, made pairs, real video",
        reported="MAE .06 (saliency)",
        error="3.1e-6 (45)",
    ),
    shapes=shapes,
)
