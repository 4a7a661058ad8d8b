"""Flow as pictures that networks are given, drawn on the device; in the order of the encodings."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvos.flow.colour import WHEEL


def wheel_picture(flow: jax.Array, *, longest: float | None = None, eps: float = 1e-5) -> jax.Array:
    """The colour wheel's pictures [..., H, W, 3], whole numbers 0 to 255 in float32, RGB.

    As `jaxvos.flow.colour.picture` draws them, but for float32: levels are cut, not rounded, so one
    may be the next. Where nothing moves it is white.

    Args:
        flow: [..., H, W, 2] in pixels (x, y).
        longest: The length that has the full colour; what is longer is darker. None is the longest
            of each picture, as published: then the colours of two cannot be compared.
        eps: Pixels that a picture's longest is taken to be longer by.
    """
    flow = flow.astype(jnp.float32)
    if longest is None:
        unit = jnp.sqrt((flow**2).sum(axis=-1, keepdims=True)).max(axis=(-3, -2), keepdims=True)
        flow = flow / (unit + eps)
    else:
        flow = flow / longest
    size = jnp.sqrt((flow**2).sum(axis=-1, keepdims=True))
    # By rounding the longest itself may be a little longer than 1.
    length = jnp.minimum(size, 1) if longest is None else size
    place = (jnp.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2 * (len(WHEEL) - 1)
    before = jnp.clip(jnp.floor(place), 0, len(WHEEL) - 1).astype(int)
    part = (place - before)[..., None]
    shares = jnp.asarray(WHEEL / 255, jnp.float32)
    colour = (1 - part) * shares[before] + part * shares[(before + 1) % len(WHEEL)]
    colour = jnp.where(length <= 1, 1 - length * (1 - colour), 0.75 * colour)
    return jnp.floor(255 * colour)


def angle_magnitude(
    flow: jax.Array, *, diagonal: jax.Array | float | None = None, still: float = 0.0
) -> jax.Array:
    """How far each motion is from the x axis, 0 to pi, and its length: [..., H, W, 2] float32.

    The angle does not tell up from down. The length's unit is a sixth of the picture's diagonal.

    Args:
        flow: [..., H, W, 2] in pixels (x, y).
        diagonal: Of the picture in whose pixels the flow is, broadcast to [..., H, W]; by default
            of a picture of the flow's own size.
        still: Where nothing moves further than this, in pixels, the angle is 0.
    """
    flow = flow.astype(jnp.float32)
    if diagonal is None:
        diagonal = float(np.hypot(*flow.shape[-3:-1]))
    x, y = flow[..., 0], flow[..., 1]
    length = jnp.sqrt(x**2 + y**2)
    angle = jnp.where(length > still, jnp.arctan2(jnp.abs(y), x), 0.0)
    return jnp.stack([angle, 6 * length / diagonal], axis=-1)
