"""RAFT on the frames of a video: each is encoded once, whatever the pairs it is in."""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.checkpoints import weights_of
from jaxvos.flow.raft import RAFT, padded, padding, prepare
from jaxvos.typing import Variables

ITERATIONS = 20
KEPT = 3
"""Frames whose features are kept: those of a pair, and the one before."""
VOLUME = 2**30
"""Bytes of the correlation of all pairs from which on it is computed on demand."""

Encoded = tuple[jax.Array, jax.Array]


@partial(jax.jit, static_argnames="model")
def _encode(model: RAFT, variables: Variables, picture: jax.Array) -> Encoded:
    """Features and context of a picture [H, W, 3] uint8."""
    return model.apply(variables, prepare(picture)[None], method="encode")


@partial(jax.jit, static_argnames="model")
def _refine(
    model: RAFT, variables: Variables, a: jax.Array, b: jax.Array, context: jax.Array
) -> jax.Array:
    """Flow [H, W, 2]."""
    return model.apply(variables, a, b, context, method="refine")[1][0]


def estimator(
    model: RAFT, variables: Variables, *, iterations: int = ITERATIONS
) -> Callable[[Sequence[np.ndarray], int, int], np.ndarray]:
    """A function (frames, t, u) -> flow [H, W, 2] float32 from frame t to frame u.

    Frames are padded to multiples of 8, at least 128 x 128, by repeating their edges. Correlations
    of all pairs beyond a GB (about 1000 x 1100 pixels) are computed on demand.

    Args:
        model: The network.
        variables: Its weights.
        iterations: Corrections of the flow: the released programs take 20 to 32.
    """
    if iterations < 1:
        raise ValueError(f"RAFT corrects the flow once or more, not {iterations} times.")
    whole = model.copy(iterations=iterations)
    encoded: OrderedDict[int, Encoded] = OrderedDict()
    seen: list[Sequence[np.ndarray]] = []

    def encode(frames: Sequence[np.ndarray], t: int) -> Encoded:
        if not seen or seen[0] is not frames:  # another video
            seen[:] = [frames]
            encoded.clear()
        if t not in encoded:
            picture = frames[t]
            encoded[t] = _encode(whole, variables, padded(picture, padding(picture.shape[:2])))
        encoded.move_to_end(t)
        while len(encoded) > KEPT:
            encoded.popitem(last=False)
        return encoded[t]

    def estimate(frames: Sequence[np.ndarray], t: int, u: int) -> np.ndarray:
        (b, _), (a, context) = encode(frames, u), encode(frames, t)
        if a.shape != b.shape:
            raise ValueError(f"Frames {t} and {u} are of two sizes; flow is between equal ones.")
        places = a.shape[1] * a.shape[2]
        used = whole.copy(on_demand=True) if 4 * places**2 > VOLUME else whole
        flow = np.asarray(_refine(used, variables, a, b, context))
        (above, _), (left, _) = padding(frames[t].shape[:2])
        height, width = frames[t].shape[:2]
        return np.ascontiguousarray(flow[above : above + height, left : left + width])

    return estimate


def read(
    weights: str | Path, *, iterations: int = ITERATIONS
) -> Callable[[Sequence[np.ndarray], int, int], np.ndarray]:
    """The estimator of a weights file (`jaxvos convert raft ...`) or a training run's folder."""
    variables, metadata = weights_of(weights, "raft")
    model = RAFT(**json.loads(metadata["options"]))
    return estimator(model, jax.tree.map(jnp.asarray, variables), iterations=iterations)
