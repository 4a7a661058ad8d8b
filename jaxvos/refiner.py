"""A small network that corrects scores by the picture: outlines, and what colours got wrong.

It sees a picture, the scores of motion, these matched to the colours, and those after the filter
(`jaxvos.colour_guided`), and says by how much the last one's logit is wrong, at most `BOUND`. It
looks no farther than some tens of pixels, so that it learns what outlines are like and not what
made-up objects are like. docs/motion.md says what it gains.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvos.checkpoints import options_of, shipped, weights_of
from jaxvos.colour_guided import Looked
from jaxvos.layers.folded_unet import Block, folded, unfolded, way_up
from jaxvos.typing import Batch, DType, Metrics, Variables

NAME = "mover_refiner"
"""What its weights and its recipe are called."""
BOUND = 3.0
"""By how much a logit is changed at most."""
SURE = 0.01
"""Scores are kept this far from 0 and 1."""
CONTRAST = 4.0
"""Colours, whose spread is about a quarter, are multiplied by it."""


class Refiner(nn.Module):
    """Colours and scores [B, h, w, 3] -> logits [B, h, w, 1] of foreground.

    Attributes:
        widths: Channels of the maps at 1/2, 1/4, ... of h and w.
        dtype: What the layers compute in; parameters stay float32.
    """

    widths: Sequence[int] = (32, 48, 64, 64)
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, colours: jax.Array, scores: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Logits "refined"; h and w must be multiples of 2 to the number of widths.

        Args:
            colours: RGB in 0..1 less the mean colour of the picture.
            scores: In 0..1: motion's, those matched to the colours, and after the filter.
            train: Whether BatchNorm uses and updates the batch's statistics.
        """
        size, factor = colours.shape[1:3], 2 ** len(self.widths)
        if any(side % factor for side in size):
            raise ValueError(
                f"Refiner reads pictures whose sides are multiples of {factor}, not {size}."
            )
        block = partial(Block, dtype=self.dtype)
        logits = _logits(scores)
        seen = jnp.concatenate([CONTRAST * colours, logits / BOUND], axis=-1)
        x = block(self.widths[0], kernel=1, name="seen")(folded(seen), train)
        maps = []
        for i, width in enumerate(self.widths):
            if i:
                x = block(width, stride=2, name=f"down{i}")(x, train)
            x = block(width, name=f"look{i}")(x, train)
            maps.append(x)
        x = way_up(maps, block, train)
        nothing = nn.initializers.zeros  # a new network leaves all as it is
        x = nn.Conv(4, (1, 1), kernel_init=nothing, dtype=self.dtype, name="correction")(x)
        change = BOUND * jnp.tanh(unfolded(x.astype(jnp.float32)) / BOUND)
        return {"refined": logits[..., -1:] + change}


def _logits(scores: jax.Array) -> jax.Array:
    scores = scores.clip(SURE, 1 - SURE)
    return jnp.log(scores / (1 - scores))


def loss(outputs: dict[str, jax.Array], batch: Batch) -> tuple[jax.Array, Metrics]:
    """Binary cross entropy, the mean over places, and half of 1 - Dice of the whole batch.

    "masks" [B, h, w, 1] are shares of foreground in 0..1. The metric "given" is the cross entropy
    of the scores as they were.
    """
    logits, masks = outputs["refined"], batch["masks"]
    entropy = optax.sigmoid_binary_cross_entropy(logits, masks).mean()
    found = nn.sigmoid(logits)
    dice = 1 - (2 * (found * masks).sum() + 1) / ((found + masks).sum() + 1)
    given = _logits(batch["scores"][..., -1:].astype(jnp.float32))
    before = optax.sigmoid_binary_cross_entropy(given, masks).mean()
    total = entropy + 0.5 * dice
    return total, {"video_loss": total, "entropy": entropy, "given": before}


@partial(jax.jit, static_argnames="model")
def _refined(
    model: Refiner, variables: Variables, colours: jax.Array, scores: jax.Array
) -> jax.Array:
    """Scores [h, w] of one picture, from colours and scores [h, w, 3] of any sides."""
    factor = 2 ** len(model.widths)
    height, width = colours.shape[:2]
    padding = ((0, -height % factor), (0, -width % factor), (0, 0))
    given = (jnp.pad(x, padding, mode="edge")[None] for x in (colours, scores))
    logits = model.apply(variables, *given)["refined"]
    return nn.sigmoid(logits)[0, :height, :width, 0]


def refiner_of(source: str | Path | None = None) -> tuple[Refiner, Variables]:
    """A network and its weights: a file or the folder of a run, None for the library's own."""
    variables, metadata = weights_of(source or shipped(NAME), NAME)
    return Refiner(**options_of(metadata)), variables


def refining(model: Refiner, variables: Variables) -> Callable[[Looked], np.ndarray]:
    """What makes scores [h, w] float32 in 0..1 of all that is known of a frame."""

    def refine(looked: Looked) -> np.ndarray:
        scores = np.stack([looked.own, looked.matched, looked.settled], axis=-1)
        return np.asarray(_refined(model, variables, colours_of(looked.picture), scores))

    return refine


def colours_of(picture: np.ndarray) -> np.ndarray:
    """[h, w, 3] float32: a uint8 RGB picture in 0..1 less its mean colour."""
    colours = picture.astype(np.float32) / 255
    return colours - colours.mean(axis=(0, 1))
