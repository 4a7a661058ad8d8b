"""RAFT as something to train and to convert: its loss and its published names; no segmenter.

Teed, Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020. The network is
`jaxvos.flow.raft`, which other systems get their flow from: `--flow raft:WEIGHTS`. What its users
stumble on: the released loss divides by all pixels, not by those whose flow is known, and pictures
below 128 pixels gave NaN; we pad them.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxvos.flow.raft import RAFT, prepare
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, Metrics, Segmenter, Variables

GAMMA = 0.8
"""What an iteration's loss counts of the next one's; 0.85 in the later released stages."""
LONGEST = 400.0
"""Pixels from which on a flow is taken for an error of the data."""


def sequence_loss(
    predictions: jax.Array, flow: jax.Array, gamma: float = GAMMA
) -> tuple[jax.Array, jax.Array]:
    """(weighted L1 distance over all iterations, mean end point error of the last where known).

    Args:
        predictions: [B, I, H, W, 2].
        flow: [B, H, W, 2]; NaN where it is not known.
        gamma: Weight of an iteration in units of the next one's; the last has 1.
    """
    length = jnp.sqrt(jnp.square(flow).sum(axis=-1))
    known = jnp.isfinite(length) & (length < LONGEST)
    target = jnp.where(known[..., None], flow, 0.0)[:, None]
    distance = jnp.abs(predictions - target) * known[:, None, ..., None]
    count = predictions.shape[1]
    weights = gamma ** jnp.arange(count - 1, -1, -1, dtype=jnp.float32)
    error = jnp.sqrt(jnp.square(predictions[:, -1] - target[:, 0]).sum(axis=-1))
    mean_error = jnp.where(known, error, 0.0).sum() / jnp.maximum(known.sum(), 1)
    return (weights * distance.mean(axis=(0, 2, 3, 4))).sum(), mean_error


def loss(predictions: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
    """The sequence loss of clips of two frames against the flow between them."""
    total, error = sequence_loss(predictions, batch["flow"][:, 0])
    return total, {"end_point_error": error}


def shapes(model: RAFT) -> Mapping[str, tuple[int, ...]]:
    """Of a clip of two pictures."""
    del model
    return {"frames": (1, 2, 64, 64, 3)}


def segmenter(model: RAFT, variables: Variables) -> Segmenter:
    """Refused: flow is no segmentation."""
    del model, variables
    raise ValueError(
        "RAFT estimates optical flow, it segments nothing: use it by `jaxvos flow --method "
        "raft:WEIGHTS` or, for a system that reads flow, by --flow raft:WEIGHTS."
    )


NAMES = (
    (r"(fnet|cnet)\.(conv[12])", r"\1/\2"),
    (r"cnet\.norm1", r"cnet/norm1/batch"),
    (r"(fnet|cnet)\.layer(\d)\.(\d)\.(conv\d)", r"\1/layer\2_\3/\4"),
    (r"cnet\.layer(\d)\.(\d)\.(norm[12])", r"cnet/layer\1_\2/\3/batch"),
    (r"(fnet|cnet)\.layer(\d)\.0\.downsample\.0", r"\1/layer\2_0/project_conv"),
    (r"cnet\.layer(\d)\.0\.(downsample\.1|norm3)", r"cnet/layer\1_0/project_norm/batch"),
    (r"update_block\.encoder\.convc(\d)", r"update/correlation\1"),
    (r"update_block\.encoder\.convf(\d)", r"update/flow\1"),
    (r"update_block\.encoder\.conv", r"update/joined"),
    (r"update_block\.gru\.convz(\d?)", r"update/gru\1/update_gate"),
    (r"update_block\.gru\.convr(\d?)", r"update/gru\1/reset_gate"),
    (r"update_block\.gru\.convq(\d?)", r"update/gru\1/out_gate"),
    (r"update_block\.flow_head\.conv(\d)", r"update/head\1"),
    (r"update_block\.mask\.0", r"update/mask1"),
    (r"update_block\.mask\.2", r"update/mask2"),
)

SYSTEM = System(
    title="RAFT (Teed & Deng, ECCV 2020): optical flow for the systems that see motion",
    model=RAFT,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="fnet",
    facts=Facts(
        needs="frame pairs",
        trained="FlyingChairs, FlyingThings3D, ...",
        reported="gives flow",
        error="4.0e-6 (41), small 2.7e-6 (32)",
    ),
    shapes=shapes,
)
