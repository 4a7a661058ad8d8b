"""Gaussian kernels between all pixels of a picture, on the permutohedral lattice or exactly.

Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010. The
lattice is laid by numpy on the host, in float32 as in the CRF's released C++ code: its numbers
depend on which simplex a pixel rounds to. Filtering is JAX, on any device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Lattice(NamedTuple):
    """A Gaussian kernel between N pixels: M points in d dimensions that carry their values.

    Point 0 is nowhere: what lies outside the lattice reads and writes its value, which stays 0.

    Attributes:
        vertices: [d + 1, N] int32, the points around each pixel.
        weights: [d + 1, N] float32, the pixel's barycentric coordinates in them.
        neighbours: [d + 1, 2, M] int32, the points before and after each point along each axis.
    """

    vertices: np.ndarray | jax.Array
    weights: np.ndarray | jax.Array
    neighbours: np.ndarray | jax.Array


Kernel = Lattice | jax.Array
"""A lattice, or for small pictures the exact [N, N] matrix."""


def lattice(features: np.ndarray) -> Lattice:
    """The lattice of features [d, N] float32, in standard deviations of the kernel."""
    corner, order, weights = _simplices(features)
    keys, ahead = _keys(corner, order)
    points, vertices = _numbered(keys)
    return Lattice(vertices, weights, _neighbours(points, ahead))


def _simplices(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The simplex around each pixel: its corner, the order of its axes, barycentric coordinates.

    The corner [d + 1, N] is the vertex of remainder 0, over d + 1. `order` [d + 1, N] is where in
    a flat [d + 1, N] array of the pixels' axes, the largest residual first, each axis belongs.
    """
    d, pixels = features.shape
    axis = np.arange(d)
    scale = ((d + 1) * np.sqrt(2 / 3) / np.sqrt((axis + 1) * (axis + 2))).astype(np.float32)
    y = np.zeros((d + 1, pixels), np.float32)
    for j in range(d, 0, -1):
        scaled = features[j - 1] * scale[j - 1]
        y[j] = y[0] - np.float32(j) * scaled
        y[0] += scaled
    if np.abs(y).max() >= 2**15:
        raise _too_fine()
    corner = np.rint(y * np.float32(1 / (d + 1)))
    residual = y - corner * np.float32(d + 1)
    rank = np.tile(corner.sum(0).astype(np.int8), (d + 1, 1))
    for a in range(d + 1):
        for b in range(a + 1, d + 1):
            less = residual[a] < residual[b]
            rank[a] += less
            rank[b] += ~less
    wrapped = (rank < 0).astype(np.int8) - (rank > d).astype(np.int8)
    rank += wrapped * np.int8(d + 1)
    corner += wrapped
    residual -= wrapped * np.float32(d + 1)
    order = rank * np.intp(pixels) + np.arange(pixels)
    ordered = np.empty_like(residual)
    ordered.ravel()[order] = residual * np.float32(1 / (d + 1))
    falling = np.concatenate([ordered, ordered[:1] - 1])
    return corner.astype(np.int16), order, (falling[:-1] - falling[1:])[::-1].copy()


def _keys(corner: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices as numbers [d + 1, N] int64, and the step of such a number along each axis [d + 1].

    All coordinates of a point leave the same remainder, so it is known by its first coordinate and
    d - 1 multiples of d + 1. Its number is linear in these, like digits whose places are as wide as
    the picture needs with room for a neighbour: steps are additions.
    """
    d, pixels = len(corner) - 1, corner.shape[1]
    digits = np.concatenate([corner[:1], corner[1:d] - corner[:1]])
    low = digits.min(1).astype(int) - 2
    wide = [int(each) for each in digits.max(1) + 3 - low]
    place = [1] * d
    for i in range(d - 1, 0, -1):
        place[i - 1] = place[i] * wide[i]
    if place[0] * wide[0] * (d + 1) << corner.size.bit_length() >= 2**63:
        raise _too_fine()
    keys = np.empty((d + 1, pixels), np.int64)
    keys[0] = (digits[0] - low[0]) * np.int64(place[0] * (d + 1))
    for i in range(1, d):
        keys[0] += (digits[i] - low[i]) * np.int64(place[i])
    # Down by d + 1 in one coordinate; the last one is known by the others.
    down = np.array([place[0] * (d + 1) - sum(place[1:]), *place[1:], 0])
    ahead = place[0] - down
    steps = np.empty_like(keys)
    steps.ravel()[order] = ahead[:, None]
    for k in range(1, d + 1):
        np.add(keys[k - 1], steps[d + 1 - k], out=keys[k])
    return keys, ahead


def _too_fine() -> ValueError:
    return ValueError(
        "The lattice is too fine to be numbered: take larger standard deviations or a smaller "
        "picture."
    )


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys, sorted, and which of them, counted from 1, each key is (int32).

    Key and position sorted as one integer are five times quicker than an argsort.
    """
    bits = keys.size.bit_length()
    packed = keys.ravel() << bits
    packed |= np.arange(keys.size)
    packed.sort()
    position = packed & ((1 << bits) - 1)
    packed >>= bits
    new = np.diff(packed, prepend=-1) != 0
    numbers = np.empty(keys.size, np.int32)
    numbers[position] = np.cumsum(new, dtype=np.int32)
    return packed[new], numbers.reshape(keys.shape)


def _neighbours(points: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """[d + 1, 2, 1 + M] int32: the numbers, from 1, of each point's neighbours; 0 for none."""
    found = np.zeros((len(ahead), 2, len(points) + 1), np.int32)
    for axis, step in enumerate(ahead):
        at = np.searchsorted(points, points + step)
        at[at == len(points)] = 0
        here = np.flatnonzero(points[at] == points + step)
        there = at[here]
        found[axis, 0, here + 1] = there + 1
        found[axis, 1, there + 1] = here + 1
    return found


def joined(lattices: Sequence[Lattice]) -> Lattice:
    """One lattice of all the pictures' pixels, in order, with room up to a size that recurs.

    Filtering is compiled for a number of points; rounding it up spares a video's frames that.
    """
    counts = [each.neighbours.shape[2] - 1 for each in lattices]
    starts = np.cumsum([0, *counts])
    step = 1 << max(int(starts[-1]).bit_length() - 3, 12)
    room = -(-int(starts[-1]) // step) * step
    neighbours = np.zeros((*lattices[0].neighbours.shape[:2], 1 + room), np.int32)
    for each, start, stop in zip(lattices, starts[:-1], starts[1:], strict=True):
        some = each.neighbours[..., 1:]
        neighbours[..., start + 1 : stop + 1] = some + np.int32(start) * (some > 0)
    vertices = [
        each.vertices + np.int32(start) for each, start in zip(lattices, starts, strict=False)
    ]
    weights = [each.weights for each in lattices]
    return Lattice(np.concatenate(vertices, 1), np.concatenate(weights, 1), neighbours)


@jax.jit
def exact_kernel(features: jax.Array) -> jax.Array:
    """[N, N] float32 kernel between all pairs of pixels with features [d, N]."""
    return jnp.exp(-0.5 * sum((row[:, None] - row[None]) ** 2 for row in features))


def filtered(kernel: Kernel, x: jax.Array) -> jax.Array:
    """K x for each row of x [C, N]."""
    if not isinstance(kernel, Lattice):
        return jnp.matmul(kernel, x.T, precision="highest").T
    return jax.vmap(_splat_blur_slice, in_axes=(None, 0))(kernel, x)


def _splat_blur_slice(kernel: Lattice, x: jax.Array) -> jax.Array:
    """K x of x [N]: onto the lattice, (1, 2, 1) / 2 along each axis in turn, and back."""
    vertices, weights, neighbours = kernel

    def blur(values: jax.Array, beside: jax.Array) -> tuple[jax.Array, None]:
        before, after = (jnp.take(values, each, mode="clip") for each in beside)
        return values + 0.5 * (before + after), None

    points = jnp.zeros(neighbours.shape[2]).at[vertices].add(weights * x[None])
    points, _ = jax.lax.scan(blur, points, neighbours)
    sums = sum(jnp.take(points, v, mode="clip") * w for v, w in zip(vertices, weights, strict=True))
    return sums / (1 + 2.0 ** (1 - len(vertices)))


@jax.jit
def normaliser(kernel: Kernel) -> jax.Array:
    """1/sqrt(K 1), [N]: applied before and after K it makes the kernel's rows sum to about 1."""
    weights = kernel.weights if isinstance(kernel, Lattice) else kernel
    return 1 / jnp.sqrt(filtered(kernel, jnp.ones((1, weights.shape[1])))[0] + 1e-20)
