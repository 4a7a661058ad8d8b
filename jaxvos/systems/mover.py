"""Mover: a small network of our own that says what moves by itself, trained on made-up video alone.

Nothing was published; docs/motion.md says how it came about and what was tried. Each frame's motion
towards two neighbours before it and two behind is sought after the camera's own motion has been
taken out (`jaxvos.flow.aligned`), and shown to the network without a scale. A U-Net looks at every
frame, and each place of its coarse maps at itself in the other frames of a clip, since what stands
still for a moment is known by what it did before and does next. Scores are then carried along the
motion, both ways in time (`jaxvos.along_motion`), and the frame's own colours sharpen the outlines
(`jaxvos.colour_guided`).

What its users stumble on: it knows motion, not things. Whatever stands still is background, and so
is what moves just as the scene does; water, smoke and a wake move by themselves and are taken for
objects; what is thinner than a few pixels of 320 x 576 is lost.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvos.along_motion import Moment, carried
from jaxvos.colour_guided import cut, reduced, settled
from jaxvos.flow.aligned import CHANNELS, STEPS, Aligned, aligned, channels, neighbour, whole
from jaxvos.inference import to_size
from jaxvos.layers.cpu_conv import conv_general_dilated
from jaxvos.layers.resize import bilinear
from jaxvos.layers.resnet import BatchNorm
from jaxvos.layers.time_attention import TimeAttention
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

AREA = 320 * 576
"""Pixels that motion is sought at; sides are multiples of 64."""
CUT = 0.5
"""The share of GrabCut's answer in the scores that then follow the frame's colours."""
FAST_SHORTER = 160
"""Pixels of the shorter side of what GrabCut is shown if there is little time."""
FAR = 2
"""Which of a neighbour's channels has the length of the motion: log 2 at `LEAST_MOTION`."""


class Block(nn.Module):
    """Convolution, BatchNorm, ReLU: [B, h, w, C] -> [B, h / stride, w / stride, features]."""

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
        )
        return nn.relu(BatchNorm(use_running_average=not train, dtype=self.dtype)(conv(x)))


class Mover(nn.Module):
    """Motion [B, T, h, w, 20] -> logits [B, T, h, w, 1] that a place moves by itself.

    Attributes:
        widths: Channels of the maps at 1/2, 1/4, ... of h and w.
        heads: Of the attention along time, a number for each width; 0 for none.
        fine: Channels of the last convolutions, for each place of h and w.
        dtype: What the layers compute in; parameters stay float32.
    """

    widths: Sequence[int] = (24, 48, 96, 144, 144)
    heads: Sequence[int] = (0, 0, 4, 4, 4)
    fine: int = 8
    dtype: DType | None = None

    @nn.compact
    def __call__(self, motion: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Logits "moving"; h and w must be multiples of 2 to the number of widths.

        Args:
            motion: `aligned.channels` of T frames, towards each of `aligned.STEPS`.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        batch, count, *size = motion.shape[:-1]
        factor = 2 ** len(self.widths)
        if any(side % factor for side in size):
            raise ValueError(
                f"Mover reads motion whose sides are multiples of {factor}, not {size}."
            )
        block = partial(Block, dtype=self.dtype)
        # Convolutions of few channels on large maps are slow: 2 x 2 places are one from here on.
        seen = _folded(motion.reshape(batch * count, *motion.shape[2:]))
        x = seen = block(self.widths[0], kernel=1, name="seen")(seen, train)
        maps = []
        for i, (width, heads) in enumerate(zip(self.widths, self.heads, strict=True)):
            if i:
                x = block(width, stride=2, name=f"down{i}")(x, train)
            x = block(width, name=f"look{i}")(x, train)
            if heads:
                along = x.reshape(batch, count, *x.shape[1:])
                along = TimeAttention(heads, dtype=self.dtype, name=f"time{i}")(along)
                x = along.reshape(x.shape)
            maps.append(x)
        for i in range(len(self.widths) - 2, -1, -1):
            up = bilinear(x, maps[i].shape[1:3])
            x = jnp.concatenate([maps[i], up], axis=-1)
            x = block(self.widths[i], kernel=1, name=f"join{i}")(x, train)
            x = block(self.widths[i], name=f"up{i}")(x, train)
        x = block(4 * self.fine, kernel=1, name="mix")(jnp.concatenate([x, seen], axis=-1), train)
        x = block(4 * self.fine, name="fine")(x, train)
        logits = nn.Conv(4, (1, 1), dtype=self.dtype, name="classifier")(x)
        logits = _unfolded(logits.astype(jnp.float32))
        return {"moving": logits.reshape(batch, count, *size, 1)}


def _folded(x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, h/2, w/2, 4 C]: each place holds 2 x 2."""
    batch, height, width, count = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, count).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // 2, width // 2, 4 * count)


def _unfolded(x: jax.Array) -> jax.Array:
    """[B, h, w, 4] -> [B, 2 h, 2 w, 1]: the other way round."""
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, 2, 2).transpose(0, 1, 3, 2, 4)
    return x.reshape(batch, 2 * height, 2 * width, 1)


def prepare(motion: jax.Array) -> jax.Array:
    """Motion in float32; it is made without a scale on the host."""
    return motion.astype(jnp.float32)


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Binary cross entropy, the mean over places, and half of 1 - Dice of each clip.

    "masks" [B, T, h, w, 1] are shares of foreground in 0..1.
    """
    logits, masks = outputs["moving"], batch["masks"]
    entropy = optax.sigmoid_binary_cross_entropy(logits, masks).mean()
    moving, axes = nn.sigmoid(logits), (1, 2, 3, 4)
    shared, both = (moving * masks).sum(axes), (moving + masks).sum(axes)
    dice = (1 - (2 * shared + 1) / (both + 1)).mean()
    total = entropy + 0.5 * dice
    return total, {"video_loss": total, "dice_loss": dice}


@partial(jax.jit, static_argnames="model")
def _moving(model: Mover, variables: Variables, motion: jax.Array) -> jax.Array:
    """Probabilities [T, h, w] of one clip's motion [T, h, w, 20]."""
    return nn.sigmoid(model.apply(variables, prepare(motion)[None])["moving"])[0, ..., 0]


def working_size(frame: tuple[int, int]) -> tuple[int, int]:
    """(H, W), multiples of 64, nearest to the frame's (H, W) in aspect, of about `AREA` pixels."""
    height = np.sqrt(AREA * frame[0] / frame[1])
    sides = (64 * max(round(side / 64), 1) for side in (height, AREA / height))
    return next(sides), next(sides)


class Seen(NamedTuple):
    """The motion of a frame.

    Attributes:
        channels: [H/2, W/2, 20] float32, what the network is shown.
        back: [H/2, W/2, 2] float32: the whole flow to the neighbour before, in pixels of half the
            working size.
        ahead: The same to the neighbour after.
    """

    channels: np.ndarray
    back: np.ndarray
    ahead: np.ndarray


def motion_of(
    greys: Sequence[np.ndarray], t: int, first: int, length: int, *, fast: bool = False
) -> Seen:
    """The motion of frame t of a video of `length`, from grey frames [H, W] `first`, ... .

    If `fast`, the neighbours next to it stand in for those beyond, and flow is refined less.
    """
    frame = greys[t - first]
    others = [neighbour(t, int(np.sign(step)) if fast else step, length) for step in STEPS]

    def towards(other: int) -> tuple[np.ndarray, np.ndarray]:
        if other == t:
            motion = Aligned(np.zeros((*(n // 2 for n in frame.shape), 2), np.float32), np.eye(3))
        else:
            motion = aligned(frame, greys[other - first], fast=fast)
        return channels(motion), whole(motion) / 2

    distinct = sorted(set(others))
    with ThreadPoolExecutor(len(distinct)) as pool:  # OpenCV lets go of the interpreter's lock
        found = dict(zip(distinct, pool.map(towards, distinct), strict=True))
    seen = [found[other][0] for other in others]
    back, ahead = (found[others[STEPS.index(step)]][1] for step in (-1, 1))
    return Seen(np.concatenate(seen, axis=-1), back, ahead)


def moves(motion: np.ndarray) -> bool:
    """Whether anything in a frame with channels [h, w, 20] goes beyond what noise would."""
    return bool(motion[..., FAR::CHANNELS].max() >= np.log(2))


def segmenter(
    model: Mover,
    variables: Variables,
    *,
    clip: int = 10,
    margin: int = 2,
    carry: bool = True,
    colours: bool = True,
    fast: bool = False,
) -> Segmenter:
    """Says of each frame what moves by itself.

    Args:
        model: The network.
        variables: Its weights.
        clip: Frames that go through the network together.
        margin: How many of a clip's first and last frames only help the others.
        carry: Carry scores from frame to frame along the motion.
        colours: Sharpen the scores by the frame's colours; False leaves motion alone.
        fast: Look at the next neighbours alone, and at colours coarsely: 0.6 of the time.
    """
    if clip <= 2 * margin:
        raise ValueError(f"clip={clip} leaves no frame between margins of {margin}.")
    reach, at_once = max(STEPS), clip - 2 * margin
    decide = partial(_moving, model, variables)

    def motions(video: Video, small: deque[np.ndarray]) -> Iterator[Seen]:
        """The motion of each frame; a small picture of each goes to `small` when it is read."""
        length = len(video.frames)
        size = working_size(video.frames[0].shape[:2])
        greys: list[np.ndarray] = []
        read = 0
        for t in range(length):
            while read < min(t + reach + 1, length):
                frame = video.frames[read]
                greys.append(_grey(frame, size))
                small.append(reduced(frame))
                read += 1
            del greys[: max(len(greys) - (read - max(t - reach, 0)), 0)]
            yield motion_of(greys, t, read - len(greys), length, fast=fast)

    def clips(source: Iterator[Seen], length: int) -> Iterator[tuple[list[Seen], range]]:
        """The motion of the frames that go through the network together, and whom it answers."""
        window: list[Seen] = []
        start = done = 0
        while done < length:
            while len(window) < clip and start + len(window) < length:
                window.append(next(source))
            last = start + len(window) == length
            end = len(window) if last else clip - margin
            yield window, range(done - start, end)
            done = start + end
            step = 0 if last else done - margin - start
            window, start = window[step:], start + step

    def answered(window: list[Seen], places: range, scores: Future) -> Iterator[Moment]:
        found = scores.result()
        for place in places:
            seen = window[place]
            yield Moment(found[place] * moves(seen.channels), seen.back, seen.ahead)

    def decided(window: list[Seen]) -> np.ndarray:
        shown = [seen.channels for seen in window]
        return np.asarray(decide(np.stack(shown + [shown[-1]] * (clip - len(shown)))))

    def moments(source: Iterator[Seen], length: int) -> Iterator[Moment]:
        """What the network says of each frame, and its flow.

        It thinks about a clip while the motion of the next one is sought: it cannot keep all cores
        busy by itself.
        """
        with ThreadPoolExecutor(1) as network:
            before: Iterator[Moment] = iter(())
            for window, places in clips(source, length):
                scores = network.submit(decided, window)
                yield from before
                before = answered(window, places, scores)
            yield from before

    def segment(video: Video) -> Iterator[np.ndarray]:
        length, size = len(video.frames), video.frames[0].shape[:2]
        pictures: deque[np.ndarray] = deque()
        along = carried if carry else iter
        found = along(moments(motions(video, pictures), length))
        if not colours:
            for moment in found:
                pictures.popleft()
                yield to_size(moment.scores, size)
            return
        waiting: deque[tuple[np.ndarray, np.ndarray]] = deque()

        def own_cut(picture: np.ndarray, moment: Moment) -> Moment:
            shown = reduced(picture, FAST_SHORTER) if fast else picture
            own = cut(shown, to_size(moment.scores, shown.shape[:2]))
            return moment._replace(scores=to_size(own, moment.scores.shape))

        def finished(pair: tuple[np.ndarray, np.ndarray], own: Moment) -> np.ndarray:
            picture, score = pair
            mixed = (1 - CUT) * score + CUT * own.scores
            return to_size(settled(picture, to_size(mixed, picture.shape[:2])), size)

        def cuts(pool: ThreadPoolExecutor) -> Iterator[Moment]:
            while together := list(islice(found, at_once)):
                shown = [pictures.popleft() for _ in together]
                waiting.extend(zip(shown, (moment.scores for moment in together), strict=True))
                yield from pool.map(own_cut, shown, together)

        with ThreadPoolExecutor() as pool:
            followed = along(cuts(pool))
            while together := list(islice(followed, at_once)):
                yield from pool.map(finished, [waiting.popleft() for _ in together], together)

    return segment


def _grey(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    small = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


SYSTEM = System(
    title="Mover (this library): what moves by itself, learned from made-up video alone",
    model=Mover,
    inputs={"motion": prepare},
    loss=loss,
    segmenter=segmenter,
    names=(),
    backbone="",
    facts=Facts(
        needs="frames",
        trained="made-up video alone",
        reported="68.5 / 68.2 on ten of its twenty videos",
        error="ours",
    ),
    shapes=lambda model: {"motion": (1, 1, *(2 * [2 ** len(model.widths)]), len(STEPS) * CHANNELS)},
)
