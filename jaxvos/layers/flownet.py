"""FlowNet's parts: convolutions down to 1/64 of the pictures, and flow refined back up to 1/4.

Dosovitskiy et al., "FlowNet: Learning Optical Flow with Convolutional Networks", ICCV 2015.
FlowNetS sees both pictures as one of six channels; FlowNetC puts each through the same `Shallow`
and joins them by their `correlation`. From 1/8 on the two are alike: `Deep`, then `Refinement`.
Flow comes in units of 20 pixels of the pictures, as published.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvos.typing import DType

STRIDE = 64
"""Pictures' sides are multiples of this."""
SCALE = 20.0
"""Pixels of flow that the networks call 1."""
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

leaky = partial(nn.leaky_relu, negative_slope=0.1)


class Refined(NamedTuple):
    """What `Refinement` gives, from fine to coarse.

    Attributes:
        flows: [B, h, w, 2] float32 at 1/4, 1/8, 1/16, 1/32 and 1/64.
        joined: The features that the first four of them are read off, alike.
    """

    flows: tuple[jax.Array, ...]
    joined: tuple[jax.Array, ...]


def conv(features: int, side: int, stride: int, name: str, dtype: DType | None) -> nn.Conv:
    """A convolution as all of FlowNet's are: with a bias, padded by half of its side."""
    sides = (side, side)
    return nn.Conv(
        features, sides, stride, padding=side // 2, kernel_init=HE, dtype=dtype, name=name
    )


def doubling(features: int, name: str, dtype: DType | None) -> nn.ConvTranspose:
    """A transposed convolution 4 x 4 to exactly twice the size."""
    return nn.ConvTranspose(
        features,
        (4, 4),
        (2, 2),
        padding=((2, 2), (2, 2)),
        transpose_kernel=True,
        kernel_init=HE,
        dtype=dtype,
        name=name,
    )


class Shallow(nn.Module):
    """The first three convolutions: [B, H, W, C] -> [B, ..., 2 width] at 1/4, [.., 4 width] at 1/8.

    Attributes:
        width: Channels of the first (published: 64).
    """

    width: int = 64
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = leaky(conv(self.width, 7, 2, "conv1", self.dtype)(x))
        self.sow("intermediates", "conv1_out", x)
        quarter = leaky(conv(2 * self.width, 5, 2, "conv2", self.dtype)(x))
        return quarter, leaky(conv(4 * self.width, 5, 2, "conv3", self.dtype)(quarter))


class Deep(nn.Module):
    """The convolutions from 1/8 on: [B, h, w, C] -> four maps, at 1/8, 1/16, 1/32 and 1/64."""

    width: int = 64
    dtype: DType | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        maps = [leaky(conv(4 * self.width, 3, 1, "conv3_1", self.dtype)(x))]
        for number, wider in ((4, 8), (5, 8), (6, 16)):
            x = leaky(conv(wider * self.width, 3, 2, f"conv{number}", self.dtype)(maps[-1]))
            maps.append(leaky(conv(wider * self.width, 3, 1, f"conv{number}_1", self.dtype)(x)))
        return tuple(maps)


class Refinement(nn.Module):
    """Flow at 1/64, and at each finer size with what the coarser one knows: maps -> `Refined`."""

    width: int = 64
    dtype: DType | None = None

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> Refined:
        """Refines.

        Args:
            maps: [B, h, w, C] at 1/4, 1/8, 1/16, 1/32 and 1/64.
        """
        x = maps[-1]
        flows, joined = [conv(2, 3, 1, "predict_flow6", self.dtype)(x)], []
        for number, wider in ((5, 8), (4, 4), (3, 2), (2, 1)):
            up = doubling(2, f"upsampled_flow{number + 1}_to_{number}", self.dtype)(flows[-1])
            wide = leaky(doubling(wider * self.width, f"deconv{number}", self.dtype)(x))
            x = jnp.concatenate([maps[number - 2], wide, up], axis=-1)
            joined.append(x)
            flows.append(conv(2, 3, 1, f"predict_flow{number}", self.dtype)(x))
        return Refined(tuple(f.astype(jnp.float32) for f in flows[::-1]), tuple(joined[::-1]))


class FlowNetS(nn.Module):
    """FlowNetS: two pictures side by side in the channels, [B, H, W, 6] -> `Refined`."""

    width: int = 64
    dtype: DType | None = None

    def setup(self) -> None:
        self.shallow = Shallow(self.width, self.dtype)
        self.deep = Deep(self.width, self.dtype)
        self.refinement = Refinement(self.width, self.dtype)

    def __call__(self, pictures: jax.Array) -> Refined:
        check_sides(pictures.shape[1:3])
        quarter, eighth = self.shallow(pictures)
        return self.refinement((quarter, *self.deep(eighth)))


def check_sides(size: tuple[int, int]) -> None:
    """Refuses pictures that are not halved evenly six times."""
    if size[0] % STRIDE or size[1] % STRIDE:
        raise ValueError(
            f"FlowNet reads pictures whose sides are multiples of {STRIDE}, not {tuple(size)}."
        )


def correlation(a: jax.Array, b: jax.Array, *, reach: int = 10, stride: int = 2) -> jax.Array:
    """How alike each place of one map and the places around it in another are.

    [B, h, w, (2 reach + 1)^2] float32 of features [B, h, w, C]: the mean over channels of a at a
    place times b `stride` * d from there, for displacements d row by row, each axis from -reach to
    reach; 0 beyond the map.
    """
    batch, height, width, channels = a.shape
    edge, count = reach * stride, 2 * reach + 1
    padded = jnp.pad(b, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    own = np.arange(width)[:, None]
    other = own + stride * np.arange(count)

    def row(dy: jax.Array) -> jax.Array:
        # Whole rows are multiplied, which is more than is needed, but a product of matrices.
        moved = lax.dynamic_slice_in_dim(padded, dy, height, axis=1)
        products = jnp.einsum("byxc,byuc->byxu", a, moved, preferred_element_type=jnp.float32)
        return products[:, :, own, other]

    found = lax.map(row, stride * jnp.arange(count))
    return jnp.moveaxis(found, 0, 3).reshape(batch, height, width, -1) / channels


def resample(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps [B, h, w, C] enlarged to [B, H, W, C], bilinear, as FlowNet's own Caffe layer does it.

    That half a pixel is measured along the other axis is its mistake; it shows where h / H and
    w / W differ.
    """
    ratios = [old / new for old, new in zip(x.shape[1:3], size, strict=True)]
    rows, columns = (
        np.clip(np.arange(new) * ratios[axis] + ratios[1 - axis] / 2 - 0.5, 0, old - 1)
        for axis, (old, new) in enumerate(zip(x.shape[1:3], size, strict=True))
    )
    rows = jnp.asarray(between(rows, x.shape[1]), x.dtype)
    columns = jnp.asarray(between(columns, x.shape[2]), x.dtype)
    return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x)


def between(places: np.ndarray, count: int) -> np.ndarray:
    """The matrix [places, count] that interpolates `count` samples there, zeros beyond them."""
    return np.maximum(1 - np.abs(places[:, None] - np.arange(count)), 0)


def length(vectors: jax.Array) -> jax.Array:
    """[..., 2] -> [...]; its gradient at zero is zero."""
    square = jnp.square(vectors).sum(axis=-1)
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
