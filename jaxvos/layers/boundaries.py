"""Boundaries of masks and edges of pictures, as labels, made on the device."""

from collections.abc import Sequence
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

SMOOTH = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def boundary(labels: jax.Array, radius: int) -> jax.Array:
    """1 where a pixel within `radius` has another label, else 0: [..., H, W, 1] float32.

    Args:
        labels: [..., H, W, 1], masks or numbers of objects.
        radius: In pixels, of a disc; what lies outside the picture is no other label.
    """
    height, width = labels.shape[-3:-1]
    # A pixel outside stands for the nearest one inside, which is within the disc too.
    padded = _padded(_padded(labels, radius, -3), radius, -2)
    seen = jnp.zeros(labels.shape, bool)
    for dy, dx in product(range(-radius, radius + 1), repeat=2):
        if dy**2 + dx**2 <= radius**2:
            y, x = radius + dy, radius + dx
            seen |= padded[..., y : y + height, x : x + width, :] != labels
    return seen.astype(jnp.float32)


def dilated(maps: jax.Array, side: int) -> jax.Array:
    """The largest value in the square of an odd `side` around each place of [..., H, W, C]."""
    return nn.max_pool(maps, (side, side), padding="SAME")


def contrast(pictures: jax.Array) -> jax.Array:
    """How steep the grey picture is at each place: [..., H, W, 1] float32, the steepest is 1.

    Args:
        pictures: [..., H, W, 3] in 0..255; smoothed a little first. One of a single grey gives 0.
    """
    grey = pictures.astype(jnp.float32).mean(axis=-1, keepdims=True) / 255
    grey = _filtered(_filtered(grey, SMOOTH, -3), SMOOTH, -2)
    slopes = (_filtered(grey, (-0.5, 0.0, 0.5), axis) for axis in (-3, -2))
    return stretched(jnp.sqrt(sum(slope**2 for slope in slopes)))


def stretched(maps: jax.Array) -> jax.Array:
    """Maps [..., H, W, C] from 0 on, each with its largest value at 1; one of zeros stays so."""
    return maps / jnp.maximum(maps.max(axis=(-3, -2, -1), keepdims=True), 1e-6)


def _padded(maps: jax.Array, width: int, axis: int) -> jax.Array:
    pads = [(0, 0)] * maps.ndim
    pads[axis] = (width, width)
    return jnp.pad(maps, pads, mode="edge")


def _filtered(maps: jax.Array, taps: Sequence[float], axis: int) -> jax.Array:
    """Correlation with an odd number of taps along an axis."""
    padded, length = _padded(maps, len(taps) // 2, axis), maps.shape[axis]
    places = (lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(len(taps)))
    return sum(tap * place for tap, place in zip(taps, places, strict=True))
