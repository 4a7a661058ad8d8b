"""All-pairs correlation of two feature maps, and windows of it around where a flow points.

Teed, Deng, "RAFT", ECCV 2020, section 3.2. With a [h, w, C] and b [h, w, C] the features of two
pictures, the correlation of places p and q is <a(p), b(q)> / sqrt(C). Level i of the pyramid has it
averaged over 2^i x 2^i places q. There are two forms of equal numbers: the whole volume, computed
once and read many times; and, since averages of products are products with averages, only the
windows that are asked for, from averaged features: slower, but memory is that of the features.
"""

import jax
import jax.numpy as jnp
from jax import lax

LEVELS = 4


def volume(a: jax.Array, b: jax.Array, levels: int = LEVELS) -> list[jax.Array]:
    """The pyramid [B, h w, h / 2^i, w / 2^i] float32 of features [B, h, w, C].

    Each level is a product with averaged features: averaging the volume itself takes longer.
    """
    rows = a.reshape(a.shape[0], -1, a.shape[-1]).astype(jnp.float32)
    scale = jnp.sqrt(jnp.float32(a.shape[-1]))
    levels_of_b = averaged(b.astype(jnp.float32), levels)
    return [jnp.einsum("bqc,byxc->bqyx", rows, level) / scale for level in levels_of_b]


def averaged(b: jax.Array, levels: int = LEVELS) -> list[jax.Array]:
    """Features [B, h / 2^i, w / 2^i, C] of all levels, what `on_demand` reads."""
    pyramid = [b]
    for _ in range(levels - 1):
        pyramid.append(_halved(pyramid[-1]))
    return pyramid


def lookup(pyramid: list[jax.Array], places: jax.Array, radius: int) -> jax.Array:
    """Windows [B, h, w, levels (2 radius + 1)^2] of the volume around places [B, h, w, 2] (x, y).

    A level's window has its own pixels, the offset in x first, then that in y; it is bilinear, and
    0 beyond the map.
    """
    batch, height, width, _ = places.shape
    flat = places.reshape(batch, -1, 2)
    windows = []
    for i, level in enumerate(pyramid):
        at = flat / 2**i
        found = jax.vmap(jax.vmap(_interpolated))(_patches(level, at, radius)[..., None], at)
        windows.append(found.reshape(batch, height, width, -1))
    return jnp.concatenate(windows, axis=-1)


def on_demand(a: jax.Array, pyramid: list[jax.Array], places: jax.Array, radius: int) -> jax.Array:
    """The same windows as `lookup`, out of features a [B, h, w, C] and `averaged` ones.

    One row of places is computed at a time; for a gradient again.
    """
    scale = 1 / jnp.sqrt(jnp.float32(a.shape[-1]))

    def of_place(feature: jax.Array, place: jax.Array, levels: list[jax.Array]) -> jax.Array:
        found = []
        for i, level in enumerate(levels):
            near = _patch(level, place / 2**i, radius).astype(jnp.float32)
            dots = jnp.einsum("yxc,c->yx", near, feature.astype(jnp.float32)) * scale
            found.append(_interpolated(dots[..., None], place / 2**i)[..., 0].reshape(-1))
        return jnp.concatenate(found)

    def of_picture(a: jax.Array, levels: list[jax.Array], places: jax.Array) -> jax.Array:
        row = jax.checkpoint(jax.vmap(lambda f, p: of_place(f, p, levels)))
        return lax.map(lambda row_of: row(*row_of), (a, places))

    return jax.vmap(of_picture)(a, pyramid, places)


def _halved(maps: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, h // 2, w // 2, C], means of 2 x 2; an odd last row is dropped."""
    height, width = maps.shape[-3] // 2, maps.shape[-2] // 2
    cut = maps[..., : 2 * height, : 2 * width, :]
    return cut.reshape(*maps.shape[:-3], height, 2, width, 2, maps.shape[-1]).mean(axis=(-4, -2))


def _patches(level: jax.Array, places: jax.Array, radius: int) -> jax.Array:
    """Patches [B, q, 2 radius + 2 (y), 2 radius + 2 (x)] of maps [B, q, h, w], one place in each.

    As `_patch`, number by number: slices of maps with a border would need that in memory.
    """
    batch, count, height, width = level.shape
    reach = jnp.arange(2 * radius + 2).reshape(1, 1, -1)
    x, y = jnp.moveaxis(jnp.floor(places).astype(jnp.int32) - radius, -1, 0)
    x, y = x[..., None] + reach, y[..., None] + reach
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    b, q = jnp.arange(batch).reshape(-1, 1, 1, 1), jnp.arange(count).reshape(1, -1, 1, 1)
    at = b, q, y[..., :, None], x[..., None, :]
    found = level.at[at].get(mode="promise_in_bounds")
    return jnp.where(inside, found, 0)


def _patch(level: jax.Array, place: jax.Array, radius: int) -> jax.Array:
    """[2 radius + 2 (y), 2 radius + 2 (x), C]: the whole pixels that a window lies between.

    All windows of a map share the fractions of their place, so that one patch serves a window.
    """
    side = 2 * radius + 2
    padded = jnp.pad(level, ((side, side), (side, side), (0, 0)))
    corner = jnp.floor(place).astype(jnp.int32) - radius + side
    # Beyond this there is nothing but zeros, where `dynamic_slice` would come back into the map.
    limits = jnp.asarray([level.shape[1], level.shape[0]], jnp.int32) + side
    x, y = jnp.clip(corner, 0, limits)
    return lax.dynamic_slice(padded, (y, x, 0), (side, side, level.shape[2]))


def _interpolated(patch: jax.Array, place: jax.Array) -> jax.Array:
    """The window [x, y, C] between the pixels of its patch [y, x, C]."""
    share_x, share_y = place - jnp.floor(place)
    rows = (1 - share_y) * patch[:-1] + share_y * patch[1:]
    return jnp.swapaxes((1 - share_x) * rows[:, :-1] + share_x * rows[:, 1:], 0, 1)
