"""Heat maps of objects' centres: drawn from masks, searched for peaks, learned by a focal loss.

The definitions are CornerNet's (Law, Deng, "CornerNet: Detecting Objects as Paired Keypoints", ECCV
2018), here with one object a picture; sizes and the Gauss map around a peak are F2Net's. All of it
runs on the device.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvos.layers.pooling import max_pool
from jaxvos.layers.resize import bilinear

PRIOR_STD = 15.0
"""Of `gauss_prior`, in pixels of the input."""


def heat_map(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Heat maps [B, h, w, 1] of masks [B, H, W, 1]: a Gauss bell, 1 at the centre of the object.

    One box around all foreground decides on centre and radius. Without any foreground the bell is a
    single 1 in the corner (0, 0).
    """
    rows, columns = (_nearest(n, m) for n, m in zip(masks.shape[1:3], size, strict=True))
    small = masks[:, rows][:, :, columns, 0] != 0
    (x1, x2), (y1, y2) = _span(small.any(axis=1)), _span(small.any(axis=2))
    radius = jnp.asarray(_radii(*size))[y2 - y1, x2 - x1]
    return bell((x1 + x2) // 2, (y1 + y2) // 2, radius, size)


def heat_size(size: tuple[int, int]) -> tuple[int, int]:
    """The heat maps' (h, w) for pictures (H, W): what the stem and its pooling leave, 1/4."""
    return tuple(-(-n // 2) // 2 + 1 for n in size)


def bell(x: jax.Array, y: jax.Array, radius: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Gauss bells [B, h, w, 1] around (x, y), each [B] integer, cut off beyond `radius` a side."""
    dx = jnp.arange(size[1])[None, None] - x[:, None, None]
    dy = jnp.arange(size[0])[None, :, None] - y[:, None, None]
    r = radius[:, None, None]
    inside = jnp.maximum(jnp.abs(dx), jnp.abs(dy)) <= r
    return jnp.where(inside, jnp.exp(-18.0 * (dx**2 + dy**2) / (2 * r + 1) ** 2), 0.0)[..., None]


def _nearest(n: int, m: int) -> np.ndarray:
    """Which of n samples Pillow's nearest filter takes for each of m."""
    return (2 * np.arange(m) + 1) * n // (2 * m)


def _span(occupied: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and one past the last True of each row [B, n]; 0 and 0 without any."""
    last = occupied.shape[1] - jnp.argmax(occupied[:, ::-1], axis=1)
    return jnp.argmax(occupied, axis=1), jnp.where(occupied.any(axis=1), last, 0)


def _radii(rows: int, columns: int) -> np.ndarray:
    """The bell's radius for each box of up to (rows, columns): [rows + 1, columns + 1] int32.

    The largest shift that leaves a box at least 0.7 of overlap, in three cases (CornerNet); the
    formulas divide by 2 where a quadratic equation's would by 2a, as in CornerNet's program.
    """
    h, w = np.arange(rows + 1.0)[:, None], np.arange(columns + 1.0)[None]
    o, s, a = 0.7, h + w, h * w
    cases = (
        s + np.sqrt(s**2 - 4 * a * (1 - o) / (1 + o)),
        2 * s + np.sqrt(4 * s**2 - 16 * a * (1 - o)),
        -2 * o * s + np.sqrt(4 * o**2 * s**2 + 16 * o * a * (1 - o)),
    )
    return (np.minimum.reduce(cases) / 2).astype(np.int32)


def peaks(heat: jax.Array, count: int) -> jax.Array:
    """The highest places of heat maps [B, h, w, 1], [B, count, 3] of (score, x, y), best first.

    Only a place that none of its eight neighbours exceeds counts with its score, others with 0.
    """
    highest = max_pool(heat, 3, 1, 1, ceil=False)
    kept = jnp.where(heat == highest, heat, 0.0).reshape(heat.shape[0], -1)
    scores, places = lax.top_k(kept, count)
    y, x = jnp.divmod(places, heat.shape[2])
    return jnp.stack([scores, x.astype(scores.dtype), y.astype(scores.dtype)], axis=-1)


def gauss_prior(
    centre: jax.Array, size: tuple[int, int], feature_size: tuple[int, int]
) -> jax.Array:
    """Gauss maps [B, h, w, 1] around centres [B, 2] = (x, y), in pixels of the input (H, W)."""
    x, y = centre[:, 0, None, None], centre[:, 1, None, None]
    dx, dy = jnp.arange(size[1])[None, None] - x, jnp.arange(size[0])[None, :, None] - y
    return bilinear(jnp.exp(-(dx**2 + dy**2) / (2 * PRIOR_STD**2))[..., None], feature_size)


def in_pixels(places: jax.Array) -> jax.Array:
    """Places (x, y) of a heat map in pixels of the input, as the released test has them."""
    return (places - 1) * 4


def focal(logits: jax.Array, heat: jax.Array) -> jax.Array:
    """CornerNet's focal loss of heat logits against heat maps: a sum, per centre of the batch."""
    p = jnp.clip(nn.sigmoid(logits), 1e-4, 1 - 1e-4)
    centre = heat == 1
    losses = jnp.where(centre, -jnp.log(p) * (1 - p) ** 2, -jnp.log(1 - p) * p**2 * (1 - heat) ** 4)
    return losses.sum() / jnp.maximum(centre.sum(), 1)
