"""FlowNet2-C as something to train and to convert: its loss and its published names; no segmenter.

Ilg et al., "FlowNet 2.0", CVPR 2017. The network is `jaxvos.flow.flownet`, which other systems get
their flow from: `--flow flownet2_c:WEIGHTS`. The published weights are those of a PyTorch port,
FlowNet2-C_checkpoint.pth.tar.

The loss is that of FlowNet in 2015, a sum over places; the port takes the mean at each size, with
weights from 0.32 for the finest down to 0.02.

What its users stumble on: pictures are BGR there, and the mean is that of both pictures of a pair;
sides that are no multiples of 64 are squashed, so that flow at 480 x 854 is estimated at 448 x 832.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxvos.flow.flownet import FlowNet2C, prepare
from jaxvos.layers.flownet import SCALE, STRIDE, length
from jaxvos.layers.resize import bilinear
from jaxvos.system import Facts, System
from jaxvos.typing import Batch, Metrics, Segmenter, Variables

WEIGHTS = (0.005, 0.01, 0.02, 0.08, 0.32)
"""What an end point error counts at 1/4, 1/8, 1/16, 1/32 and 1/64."""


def multiscale_loss(
    predictions: tuple[jax.Array, ...], flow: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(weighted sum of end point errors of all sizes, mean error in pixels at full size).

    Args:
        predictions: [B, h, w, 2] in 20 pixels, from fine to coarse.
        flow: [B, H, W, 2] in pixels; NaN where it is not known, which counts nowhere.
    """
    total = jnp.zeros(())
    for weight, found in zip(WEIGHTS, predictions, strict=True):
        target, known = shrunk(flow / SCALE, found.shape[1:3])
        total += weight * jnp.where(known, length(found - target), 0.0).sum() / len(flow)
    target, known = shrunk(flow, flow.shape[1:3])
    error = length(bilinear(SCALE * predictions[0], flow.shape[1:3]) - target)
    return total, jnp.where(known, error, 0.0).sum() / jnp.maximum(known.sum(), 1)


def shrunk(flow: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Mean of the known flow [B, h, w, 2] in the cells of a grid, and where there is any [B, h, w].

    Args:
        flow: [B, H, W, 2]; NaN where it is not known.
        size: (h, w), which divide (H, W).
    """
    batch, height, width, _ = flow.shape
    cells = flow.reshape(batch, size[0], height // size[0], size[1], width // size[1], 2)
    known = jnp.isfinite(cells).all(axis=-1, keepdims=True)
    count = known.sum(axis=(2, 4))
    total = jnp.where(known, cells, 0.0).sum(axis=(2, 4))
    return total / jnp.maximum(count, 1), count[..., 0] > 0


def loss(predictions: tuple[jax.Array, ...], batch: Batch) -> tuple[jax.Array, Metrics]:
    """FlowNet's loss of clips of two frames against the flow between them."""
    total, error = multiscale_loss(predictions, batch["flow"][:, 0])
    return total, {"end_point_error": error}


def shapes(model: FlowNet2C) -> Mapping[str, tuple[int, ...]]:
    """Of a clip of two pictures."""
    del model
    return {"frames": (1, 2, STRIDE, STRIDE, 3)}


def segmenter(model: FlowNet2C, variables: Variables) -> Segmenter:
    """Refused: flow is no segmentation."""
    del model, variables
    raise ValueError(
        "FlowNet2-C estimates optical flow, it segments nothing: use it by `jaxvos flow --method "
        "flownet2_c:WEIGHTS` or, for a system that reads flow, by --flow flownet2_c:WEIGHTS."
    )


NAMES = (
    (r"(conv[123])\.0", r"shallow/\1"),
    (r"conv_redir\.0", r"conv_redir"),
    (r"(conv3_1|conv[456](?:_1)?)\.0", r"deep/\1"),
    (r"(deconv[2-5])\.0", r"refinement/\1"),
    (r"(predict_flow[2-6]|upsampled_flow\d_to_\d)", r"refinement/\1"),
)

SYSTEM = System(
    title="FlowNet2-C (Ilg et al., CVPR 2017): optical flow at one go, from what correlates",
    model=FlowNet2C,
    inputs={"frames": prepare},
    loss=loss,
    segmenter=segmenter,
    names=NAMES,
    backbone="shallow",
    facts=Facts(
        needs="frame pairs",
        trained="FlyingChairs, FlyingThings3D",
        reported="gives flow",
        error="1.7e-6 (10)",
    ),
    shapes=shapes,
)
