"""Mover: a small network of our own that says what moves by itself, trained on made-up video alone.

Nothing was published; docs/motion.md says how it came about and what was tried. Each frame's motion
towards two neighbours before it and two behind is sought after the camera's own motion has been
taken out (`jaxvos.flow.aligned`), and shown to the network without a scale. A U-Net looks at every
frame, and each place of its coarse maps at itself in the other frames of a clip, since what stands
still for a moment is known by what it did before and does next. Scores are then carried along the
motion, both ways in time (`jaxvos.along_motion`), the frame's own colours sharpen the outlines
(`jaxvos.colour_guided`), and a second network, `mover_refiner`, corrects what comes of it by the
picture (`jaxvos.refiner`).

What its users stumble on: it knows motion, not things. Whatever stands still is background, and so
is what moves just as the scene does; water, smoke and a wake move by themselves and are taken for
objects; what is thinner than a few pixels of 320 x 576 is lost.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from operator import attrgetter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvos.along_motion import Moment, carried
from jaxvos.checkpoints import options_of, shipped, weights_of
from jaxvos.colour_guided import SHORTER, Looked, coloured, reduced
from jaxvos.flow.aligned import CHANNELS, STEPS, Search
from jaxvos.flow.fields import Estimator, estimator
from jaxvos.flow.neighbours import Seen, motions, moves, suited
from jaxvos.inference import to_size
from jaxvos.layers.folded_unet import Block, folded, unfolded, way_up
from jaxvos.layers.time_attention import TimeAttention
from jaxvos.refiner import Refiner, refiner_of, refining
from jaxvos.refiner import loss as refiner_loss
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, DType, Metrics, Segmenter, Variables, Video

FAST_SHORTER = 160
"""Pixels of the shorter side of what GrabCut is shown if there is little time."""


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
        seen = folded(motion.reshape(batch * count, *motion.shape[2:]))
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
        x = way_up(maps, block, train)
        x = block(4 * self.fine, kernel=1, name="mix")(jnp.concatenate([x, seen], axis=-1), train)
        x = block(4 * self.fine, name="fine")(x, train)
        logits = nn.Conv(4, (1, 1), dtype=self.dtype, name="classifier")(x)
        logits = unfolded(logits.astype(jnp.float32))
        return {"moving": logits.reshape(batch, count, *size, 1)}


def prepare(given: jax.Array) -> jax.Array:
    """In float32 what was made ready on the host."""
    return given.astype(jnp.float32)


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


def segmenter(
    model: Mover,
    variables: Variables,
    *,
    clip: int = 10,
    margin: int | None = None,
    carry: bool = True,
    colours: bool = True,
    fast: bool = False,
    flow: str = "dis",
    refiner: str | Callable[[Looked], np.ndarray] | None = "shipped",
) -> Segmenter:
    """Says of each frame what moves by itself.

    Args:
        model: The network.
        variables: Its weights.
        clip: Frames that go through the network together.
        margin: How many of a clip's first and last frames only help the others; None is 2, 1 if
            `fast`.
        carry: Carry scores from frame to frame along the motion.
        colours: Sharpen the scores by the frame's colours; False leaves motion alone, which is then
            looked at twice where neighbours do not suit its speed.
        fast: Look at the next neighbours alone, and at colours coarsely, and refine nothing: half
            of the time.
        flow: Who looks for motion once the camera's has been taken out: "dis", which the shipped
            weights have learned with, or an estimator as `--flow` names it, "raft:WEIGHTS".
        refiner: Who corrects what colours make of the scores: "shipped", the library's own
            `jaxvos.refiner`; the weights or the run of another, or what `refiner.refining` makes;
            or "none". Nobody if `fast` or without `colours`.
    """
    if margin is None:
        margin = 1 if fast else 2
    if clip <= 2 * margin:
        raise ValueError(f"clip={clip} leaves no frame between margins of {margin}.")
    along = carried if carry else iter
    search = None if flow == "dis" else _between(estimator(flow))
    look = partial(moments, model, variables, clip=clip, margin=margin, fast=fast, search=search)
    finish = attrgetter("settled")
    if fast or not colours:
        if refiner not in ("shipped", "none", None):
            raise ValueError(
                f"refiner={refiner} corrects what colours make of the scores when there is time: "
                "leave it away, or fast and colours=False."
            )
    elif callable(refiner):
        finish = refiner
    elif refiner not in ("none", None):
        finish = refining(*refiner_of(None if refiner == "shipped" else refiner))

    def segment(video: Video) -> Iterator[np.ndarray]:
        size = video.frames[0].shape[:2]
        pictures: deque[np.ndarray] = deque()  # small ones, of frames without an answer so far
        found = along(look(video.frames, pictures, again=not (fast or colours)))
        if not colours:
            for moment in along(found):  # once more, as the colours' answers are
                pictures.popleft()
                yield to_size(moment.scores, size)
            return
        whole = lambda looked: to_size(finish(looked), size)  # noqa: E731
        shorter = FAST_SHORTER if fast else SHORTER
        yield from coloured(found, pictures, whole, along=along, shorter=shorter)

    return segment


def moments(
    model: Mover,
    variables: Variables,
    frames: Sequence[np.ndarray],
    pictures: deque[np.ndarray],
    *,
    clip: int = 10,
    margin: int = 2,
    fast: bool = False,
    search: Search | None = None,
    again: bool = False,
) -> Iterator[Moment]:
    """What the network says of each frame, and its flow; see `segmenter`.

    Args:
        model, variables, clip, margin, fast: As there.
        frames: Of the whole video.
        pictures: Gets the small picture (`colour_guided.reduced`) of each frame before its answer.
        search: Looks for motion in the place of DIS.
        again: Look a second time where the neighbours do not suit the speed of what was found.
    """
    seen = motions(frames, fast=fast, search=search, read=lambda f: pictures.append(reduced(f)))
    decide = partial(_moving, model, variables)
    return _decided(decide, _clips(seen, len(frames), clip, margin), clip, again)


def refined(model: Refiner, variables: Variables) -> Segmenter:
    """The library's own Mover, its scores corrected by this network."""
    return segmenter(*of_the_library(), refiner=refining(model, variables))


def of_the_library() -> tuple[Mover, Variables]:
    """The network and the weights that come with the library."""
    known, metadata = weights_of(shipped("mover"), "mover")
    return Mover(**options_of(metadata)), known


def _between(estimate: Estimator) -> Search:
    """An estimator as one between two pictures."""
    return lambda frame, other: estimate((frame, other), 0, 1)


def _clips(
    source: Iterator[Seen], length: int, clip: int, margin: int
) -> Iterator[tuple[list[Seen], range]]:
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


def _decided(
    decide: Callable[[np.ndarray], jax.Array],
    clips: Iterator[tuple[list[Seen], range]],
    clip: int,
    again: bool,
) -> Iterator[Moment]:
    """What the network says of each frame, and its flow.

    If `again`, the network is asked a second time where the neighbours do not suit the speed of
    what it finds. It thinks about a clip while the motion of the next one is sought: it cannot keep
    all cores busy by itself.
    """

    def decided(window: list[Seen]) -> np.ndarray:
        shown = [seen.channels for seen in window]
        motion = np.stack(shown + [shown[-1]] * (clip - len(shown)))
        scores = np.asarray(decide(motion))
        better = suited(motion, _speed(scores, window)) if again else motion
        return scores if better is motion else np.asarray(decide(better))

    def answered(window: list[Seen], places: range, scores: Future) -> Iterator[Moment]:
        found = scores.result()
        for place in places:
            seen = window[place]
            yield Moment(found[place] * moves(seen.channels), seen.back, seen.ahead)

    with ThreadPoolExecutor(1) as network:
        before: Iterator[Moment] = iter(())
        for window, places in clips:
            scores = network.submit(decided, window)
            yield from before
            before = answered(window, places, scores)
        yield from before


def _speed(scores: np.ndarray, window: list[Seen]) -> float:
    """How far what is found moves in a frame, pixels: the median over frames; nan if nothing is."""
    speeds = [
        np.average(seen.length, weights=score * found)
        for score, seen in zip(scores, window, strict=False)
        if (found := score > 0.5).any()
    ]
    return float(np.median(speeds)) if speeds else np.nan


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
        reported="70.6 / 72.7 on ten of its twenty videos",
        error="ours",
    ),
    shapes=lambda model: {"motion": (1, 1, *(2 * [2 ** len(model.widths)]), len(STEPS) * CHANNELS)},
)

REFINER = System(
    title="Mover's refiner (this library): its scores corrected by the picture",
    model=Refiner,
    inputs={"colours": prepare, "scores": prepare},
    loss=refiner_loss,
    segmenter=refined,
    names=(),
    backbone="",
    facts=Facts(
        needs="frames",
        trained="made-up video alone",
        reported="part of Mover",
        error="ours",
    ),
    shapes=lambda model: dict.fromkeys(
        ("colours", "scores"), (1, *(2 * [2 ** len(model.widths)]), 3)
    ),
)
