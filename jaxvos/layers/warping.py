"""Moves feature maps along flow, on the device; `jaxvos.flow.warp` moves pictures on the host.

A flow [..., h, w, 2] says in pixels (x, y) where each place p of one map lies in another one:
p + flow(p). Moving the other map's values along it brings them to lie where the first one's are.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from jaxvos.layers.resize import bilinear


def warp(
    values: jax.Array, flow: jax.Array, *, fade: bool = False, align_corners: bool = True
) -> jax.Array:
    """`values` [..., h, w, C] at p + flow(p) for every place p, bilinear, in their own type.

    Args:
        values: Maps; their leading axes are the flow's.
        flow: [..., h, w, 2] in pixels (x, y).
        fade: What is beyond the map: zero, so that a sample half outside is half faded; or (False)
            what is at its edge.
        align_corners: True samples at p + flow(p). False samples where PyTorch's `grid_sample` does
            with align_corners=False when places were scaled to [-1, 1] by w - 1 and h - 1, as in
            networks from before it had a choice: x w / (w - 1) - 1/2, so that no flow still moves.
    """
    if flow.shape != (*values.shape[:-1], 2):
        raise ValueError(
            f"Values are {values.shape}, flow {flow.shape}; not [..., h, w, C] and [..., h, w, 2]."
        )
    height, width = values.shape[-3:-1]
    x, y = (
        _places(flow[..., axis], side, axis, align_corners, fade)
        for axis, side in enumerate((width, height))
    )
    count = prod(values.shape[:-3])
    rows = values.reshape(count, height * width, values.shape[-1])
    total = jnp.zeros(values.shape, jnp.promote_types(values.dtype, jnp.float32))
    for iy, weight_y in _corners(y, height):
        for ix, weight_x in _corners(x, width):
            index = (iy * width + ix).reshape(count, height * width, 1)
            found = jnp.take_along_axis(rows, index, axis=1).reshape(values.shape)
            total += (weight_y * weight_x)[..., None] * found
    return total.astype(values.dtype)


def _places(flow: jax.Array, side: int, axis: int, align_corners: bool, fade: bool) -> jax.Array:
    """Where along one axis is sampled, [..., h, w] float32, at most a pixel beyond the map."""
    own = lax.broadcasted_iota(jnp.float32, flow.shape, flow.ndim - 1 - axis)
    places = own + flow.astype(jnp.float32)
    if not align_corners:
        places = places * (side / max(side - 1, 1)) - 0.5
    return jnp.clip(places, -1.0, side) if fade else jnp.clip(places, 0.0, side - 1.0)


def _corners(places: jax.Array, side: int) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """The two neighbours of each place along one axis: (index, weight); none beyond the map."""
    low = jnp.floor(places)
    share = places - low
    low = low.astype(jnp.int32)
    corners = ((low, 1 - share), (low + 1, share))
    inside = [(i >= 0) & (i < side) for i, _ in corners]
    return tuple(
        (jnp.clip(i, 0, side - 1), jnp.where(ok, weight, 0.0))
        for (i, weight), ok in zip(corners, inside, strict=True)
    )


def resize_flow(
    flow: jax.Array, size: tuple[int, int], *, align_corners: bool = False
) -> jax.Array:
    """Flow [..., H, W, 2] on a grid of `size` (h, w), its values in that grid's pixels.

    Args:
        flow: In pixels (x, y) of its own grid.
        size: (h, w).
        align_corners: As in `jaxvos.layers.resize.bilinear`; a pixel of the new grid is then
            (W - 1) / (w - 1) old ones wide, else W / w.
    """
    spare = 1 if align_corners else 0
    ratios = [
        (new - spare) / max(old - spare, 1)
        for new, old in zip(size[::-1], flow.shape[-2:-4:-1], strict=True)
    ]
    scale = jnp.asarray(ratios, flow.dtype).reshape((1,) * (flow.ndim - 1) + (2,))
    return bilinear(flow, size, align_corners=align_corners) * scale


def inverse_flow(flow: jax.Array, *, steps: int = 8) -> jax.Array:
    """The flow [..., h, w, 2] back: from where `flow` leads to where it began.

    It is the b with b(p) = -flow(p + b(p)), found by that iteration, which closes in where
    neighbours move alike; where something is uncovered there is no answer, and one of the two
    motions comes out.
    """
    return lax.fori_loop(0, steps, lambda _, back: -warp(flow, back), -flow)


def chained_flow(flows: jax.Array) -> jax.Array:
    """Flows [..., k, h, w, 2] from the first frame on: to the second, to the third, and so on.

    Args:
        flows: Of neighbours: from frame j to frame j + 1, j = 0 to k - 1.
    """

    def further(way: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        way = way + warp(step, way)
        return way, way

    steps = jnp.moveaxis(flows, -4, 0)
    _, ways = lax.scan(further, jnp.zeros(steps.shape[1:], steps.dtype), steps)
    return jnp.moveaxis(ways, 0, -4)
