"""The mask of a video's first frame: where it is read, and how a system learns from it.

This is the semi-supervised mode of systems that have one: a few steps on the first frame before the
video is segmented, forgotten after it (Caelles et al., "One-Shot Video Object Segmentation", CVPR
2017, section 3.2).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from jaxvos.davis_layout import read_labels
from jaxvos.typing import Variables, Video

MOMENTUM, DECAY = 0.9, 5e-4

Objective = Callable[..., jax.Array]
"""(model, variables, *example) -> what is to become less."""


def with_first_mask(video: Video, place: str | None) -> Video:
    """The video with its own first mask, else with the one that is found at `place`.

    Args:
        video: What is to be segmented.
        place: A label map; or a folder of VIDEO/*.png (DAVIS's Annotations/480p), whose first one
            is taken. None if the video should bring it.

    Raises:
        ValueError: There is no mask, or it is not of the first frame's size.
    """
    if video.first_mask is not None:
        return video
    if place is None:
        raise ValueError(
            f"{video.name} has no first mask, which tuning learns from: it is Video's "
            "`first_mask`, object numbers of frame 0, or --set mask=FILE. tuning=0 goes without."
        )
    file = Path(place)
    if file.is_dir():
        found = min((file / video.name).glob("*.png"), default=None)
        if found is None:
            raise ValueError(f"{file / video.name} has no .png: the mask of a first frame.")
        file = found
    labels, size = read_labels(file), video.frames[0].shape[:2]
    if labels.shape != size:
        raise ValueError(f"{file} is {labels.shape}, the first frame is {size} (H, W).")
    return video._replace(first_mask=labels)


def tuned(
    objective: Objective,
    model: nn.Module,
    variables: Variables,
    examples: Sequence[tuple[np.ndarray, ...]],
    *,
    parts: tuple[str, ...],
    steps: int,
    rate: float,
) -> Variables:
    """Variables after steps of SGD on the examples, which are taken in turn.

    Args:
        objective: What is to become less; a function of a module, compiled once.
        model: The network.
        variables: Its weights to begin with; they are left alone.
        examples: What the objective is given beside model and variables.
        parts: The top-level modules whose parameters learn.
        steps: How many.
        rate: Of a step.
    """
    state = _rule(rate).init({name: variables["params"][name] for name in parts})
    for step in range(steps):
        example = examples[step % len(examples)]
        variables, state = _step(objective, model, variables, state, example, parts, rate)
    return variables


def _rule(rate: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(rate, MOMENTUM))


@partial(jax.jit, static_argnames=("objective", "model", "parts", "rate"))
def _step(
    objective: Objective,
    model: nn.Module,
    variables: Variables,
    state: Any,
    example: tuple[jax.Array, ...],
    parts: tuple[str, ...],
    rate: float,
) -> tuple[Variables, Any]:
    """Variables and the optimiser's state after a step."""
    params = variables["params"]

    def value(learning: dict) -> jax.Array:
        return objective(model, {**variables, "params": {**params, **learning}}, *example)

    learning = {name: params[name] for name in parts}
    updates, state = _rule(rate).update(jax.grad(value)(learning), state, learning)
    return {**variables, "params": {**params, **optax.apply_updates(learning, updates)}}, state
