"""Resizing with either corner convention, as PyTorch's `interpolate` (no antialias)."""

import jax
import jax.numpy as jnp
import numpy as np


def bilinear(x: jax.Array, size: tuple[int, int], *, align_corners: bool = False) -> jax.Array:
    """Resizes maps [..., h, w, C] to [..., H, W, C] by two small matrices, rows then columns.

    Args:
        x: Maps; computed and returned in their own type.
        size: (H, W).
        align_corners: True if the centres of the corner pixels are kept in place, False if the
            outer edges of the picture are (OpenCV's convention).
    """
    rows = jnp.asarray(_weights(x.shape[-3], size[0], align_corners), x.dtype)
    columns = jnp.asarray(_weights(x.shape[-2], size[1], align_corners), x.dtype)
    return jnp.einsum("Hh,Ww,...hwc->...HWc", rows, columns, x)


def logits_at(
    logits: jax.Array, size: tuple[int, int], *, align_corners: bool = False
) -> jax.Array:
    """Logits [..., h, w, C] of any type at a picture's `size`: [..., H, W, C] float32.

    Args:
        logits: What a network's last layer gave.
        size: (H, W).
        align_corners: As in `bilinear`.
    """
    return bilinear(logits.astype(jnp.float32), tuple(size), align_corners=align_corners)


def _weights(n: int, m: int, align_corners: bool) -> np.ndarray:
    """The matrix [m, n] that interpolates n samples at m places."""
    if align_corners:
        places = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)
    else:
        places = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
    low = np.minimum(places.astype(int), max(n - 2, 0))
    share = places - low
    weights = np.zeros((m, n))
    weights[np.arange(m), low] += 1 - share
    weights[np.arange(m), np.minimum(low + 1, n - 1)] += share
    return weights


def bicubic(x: jax.Array, size: tuple[int, int], *, align_corners: bool = False) -> jax.Array:
    """Resizes maps [..., h, w, C] to [..., H, W, C] by cubic convolution with a = -0.75.

    The result goes beyond the values it is made of where they change steeply, and is not clamped.

    Args:
        x: Maps; computed and returned in their own type.
        size: (H, W).
        align_corners: As in `bilinear`.
    """
    rows = jnp.asarray(_cubic_weights(x.shape[-3], size[0], align_corners), x.dtype)
    columns = jnp.asarray(_cubic_weights(x.shape[-2], size[1], align_corners), x.dtype)
    return jnp.einsum("Hh,Ww,...hwc->...HWc", rows, columns, x)


def _cubic_weights(n: int, m: int, align_corners: bool) -> np.ndarray:
    """The matrix [m, n] of four samples a place; those beyond the ends are the end ones."""
    if align_corners:
        places = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)
    else:
        places = (np.arange(m) + 0.5) * (n / m) - 0.5
    before = np.floor(places).astype(int)
    weights = np.zeros((m, n))
    for tap in (-1, 0, 1, 2):
        share = _cubic(np.abs(places - before - tap))
        weights[np.arange(m), np.clip(before + tap, 0, n - 1)] += share
    return weights


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """What a sample at this distance, 0 to 2, counts."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)
