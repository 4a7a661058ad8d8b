"""A fully connected CRF over the places of a map, unrolled, so that the gradient passes through.

Kraehenbuehl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011, with Potts labels; the sums are exact, since maps of features are small. `jaxvos.crf` is
the one for pictures.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TINY = 1e-37
"""In place of a sum of no weights at all, as those of a single place."""


class CRF(NamedTuple):
    """How much the labels of other places count, and of which.

    Attributes:
        colour_weight: Of messages between near places of alike colour.
        near_weight: Of messages between near places.
        reach: Standard deviation of "near", in places, where colours count (theta alpha).
        colours: That of "alike", in the guide's units (theta beta).
        near: That of "near" where colours do not count (theta gamma).
        iterations: Mean field updates; 0 leaves the labels as they are.
    """

    colour_weight: float
    near_weight: float
    reach: float
    colours: float
    near: float
    iterations: int


def mean_field(logits: jax.Array, guide: jax.Array, crf: CRF) -> list[jax.Array]:
    """Shares of the labels [h, w, K] of one map, before the first and after every iteration.

    An iteration is q = softmax(logits + colour_weight k1 q + near_weight k2 q), where k1 and k2
    have no place count for itself and their rows sum up to 1: places attract each other's labels.

    Args:
        logits: [h, w, K], the negative unary terms.
        guide: Colours [h, w, 3].
        crf: Weights and widths.
    """
    logits = logits.astype(jnp.float32)
    results = [jax.nn.softmax(logits, axis=-1)]
    alike = _kernel(guide.astype(jnp.float32), crf) if crf.iterations else None
    near = _near_kernel(logits.shape[:2], crf.near)
    for _ in range(crf.iterations):
        q = results[-1]
        message = (alike @ q.reshape(-1, q.shape[-1])).reshape(q.shape)
        total = logits + crf.colour_weight * message + crf.near_weight * near(q)
        results.append(jax.nn.softmax(total, axis=-1))
    return results


def _kernel(guide: jax.Array, crf: CRF) -> jax.Array:
    """Weights [hw, hw] of all other places for each place; they sum up to 1."""
    y, x = (lax.broadcasted_iota(jnp.float32, (*guide.shape[:2], 1), i) for i in (0, 1))
    points = jnp.concatenate([y / crf.reach, x / crf.reach, guide / crf.colours], axis=-1)
    points = points.reshape(-1, points.shape[-1])
    distance = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    weights = jnp.exp(-distance / 2) * (1 - jnp.eye(len(points)))
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), TINY)


def _near_kernel(size: tuple[int, int], std: float) -> Callable[[jax.Array], jax.Array]:
    """[h, w, K] -> the mean of the other places, weighed by a Gaussian of their distance.

    It is a product of one along the rows and one along the columns but for the place itself, which
    is left out where it would come in: subtracted in the end it would leave rounding errors.
    """
    rows, columns = (
        np.exp(-0.5 * ((np.arange(n)[:, None] - np.arange(n)) / std) ** 2) for n in size
    )
    others, beside = rows - np.eye(size[0]), columns - np.eye(size[1])
    total = np.outer(others.sum(1), columns.sum(1)) + beside.sum(1)
    total = np.maximum(total, TINY)[..., None]
    others, columns, beside, total = (
        jnp.asarray(x, jnp.float32) for x in (others, columns, beside, total)
    )

    def mean(q: jax.Array) -> jax.Array:
        above_and_below = jnp.einsum("yv,xu,vuk->yxk", others, columns, q)
        return (above_and_below + jnp.einsum("xu,yuk->yxk", beside, q)) / total

    return mean
