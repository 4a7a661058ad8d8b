"""FlowNet2-C: optical flow at one go, from what correlates between two pictures.

Ilg, Mayer, Saikia, Keuper, Dosovitskiy, Brox, "FlowNet 2.0: Evolution of Optical Flow Estimation
with Deep Networks", CVPR 2017: FlowNetC (Dosovitskiy et al., ICCV 2015), trained anew. Both
pictures go through the same three convolutions; each place of the first is compared with 21 x 21
places of the second; an encoder and a decoder make flow of that, at 1/4 of the size.

The mean colour that is taken off is that of the two pictures together, so that features of a frame
are another one's in every pair: nothing is kept from pair to pair, unlike RAFT's.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.checkpoints import weights_of
from jaxvos.flow.each_frame import fit_flow
from jaxvos.layers.flownet import (
    SCALE,
    STRIDE,
    Deep,
    Refinement,
    Shallow,
    check_sides,
    conv,
    correlation,
    leaky,
)
from jaxvos.layers.resize import bilinear
from jaxvos.typing import DType, Variables


def prepare(frames: jax.Array) -> jax.Array:
    """Pairs [..., 2, H, W, 3] RGB in 0..255 -> BGR, minus the pair's mean colour, / 255."""
    pictures = frames[..., ::-1].astype(jnp.float32)
    return (pictures - pictures.mean(axis=(-4, -3, -2), keepdims=True)) / 255


class FlowNet2C(nn.Module):
    """The network.

    Attributes:
        width: Channels of the first convolution (published: 64).
        reach: How far is looked, in steps of two places at 1/8; the published 10 is 160 pixels.
        dtype: What the layers compute in; flow and correlations are float32.
    """

    width: int = 64
    reach: int = 10
    dtype: DType | None = None

    def setup(self) -> None:
        self.shallow = Shallow(self.width, self.dtype)
        self.conv_redir = conv(self.width // 2, 1, 1, None, self.dtype)
        self.deep = Deep(self.width, self.dtype)
        self.refinement = Refinement(self.width, self.dtype)

    def __call__(self, frames: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Flow from the first to the second, [B, h, w, 2] in 20 pixels, at 1/4, 1/8, ... 1/64.

        Args:
            frames: Prepared pairs [B, 2, H, W, 3], sides multiples of 64.
            train: Changes nothing; there is no BatchNorm here.
        """
        del train
        batch, count, *picture = frames.shape
        if count != 2:
            raise ValueError(f"FlowNet2-C reads clips [B, 2, H, W, 3], not {frames.shape}.")
        check_sides(picture[:2])
        quarter, eighth = (
            x.reshape(batch, 2, *x.shape[1:]) for x in self.shallow(frames.reshape(-1, *picture))
        )
        a, b = eighth[:, 0], eighth[:, 1]
        alike = correlation(a, b, reach=self.reach)
        own = leaky(self.conv_redir(a))
        self.sow("intermediates", "eighth", eighth)
        self.sow("intermediates", "alike", alike)
        self.sow("intermediates", "own", own)
        deep = self.deep(jnp.concatenate([own, leaky(alike).astype(own.dtype)], axis=-1))
        return self.refinement((quarter[:, 0], *deep)).flows

    def flow(self, frames: jax.Array) -> jax.Array:
        """Flow [B, H, W, 2] in pixels (x, y), at the pictures' size, float32."""
        return bilinear(SCALE * self(frames)[0], frames.shape[2:4])


@partial(jax.jit, static_argnames="model")
def _flow(model: FlowNet2C, variables: Variables, frames: jax.Array) -> jax.Array:
    """Flow [H, W, 2] of two pictures [2, H, W, 3] uint8."""
    return model.apply(variables, prepare(frames)[None], method="flow")[0]


def fitting(size: tuple[int, int]) -> tuple[int, int]:
    """What pictures (H, W) are squashed to: the next lower multiples of 64, at least 64."""
    return tuple(max(side // STRIDE, 1) * STRIDE for side in size)


def estimator(
    model: FlowNet2C, variables: Variables
) -> Callable[[Sequence[np.ndarray], int, int], np.ndarray]:
    """A function (frames, t, u) -> flow [H, W, 2] float32 from frame t to frame u.

    Frames are squashed to multiples of 64, and the flow is stretched back.
    """

    def estimate(frames: Sequence[np.ndarray], t: int, u: int) -> np.ndarray:
        a, b = frames[t], frames[u]
        if a.shape != b.shape:
            raise ValueError(f"Frames {t} and {u} are of two sizes; flow is between equal ones.")
        size = fitting(a.shape[:2])
        small = [cv2.resize(x, size[::-1], interpolation=cv2.INTER_LINEAR) for x in (a, b)]
        return fit_flow(np.asarray(_flow(model, variables, np.stack(small))), a.shape[:2])

    return estimate


def read(weights: str | Path) -> Callable[[Sequence[np.ndarray], int, int], np.ndarray]:
    """The estimator of a weights file (`jaxvos convert flownet2_c ...`) or a training's folder."""
    variables, metadata = weights_of(weights, "flownet2_c")
    model = FlowNet2C(**json.loads(metadata["options"]))
    return estimator(model, jax.tree.map(jnp.asarray, variables))
