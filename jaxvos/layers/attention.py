"""Co-attention: two maps summed up anew from each other's features, whole or block by block.

Both forms work on one pair; the systems vmap them. With a [N, C] and b [M, C] the features of two
maps, x = a W^T [N, C] their projection and A = x b^T the affinity,

    from_b[n] = sum_m softmax_m(A)[n, m] b[m]        from_a[m] = sum_n softmax_n(A)[n, m] a[n]

(Lu et al., "See More, Know More", CVPR 2019, eq. 1-4). Affinities and softmax are float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

_MASKED = -1e30  # in place of -inf, whose differences are NaN


def coattend(x: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(from_b [N, C], from_a [M, C]), with the whole affinity [N, M] in memory."""
    affinity = _affinity(x, b)
    from_b = jnp.einsum("nm,mc->nc", jax.nn.softmax(affinity, axis=1).astype(b.dtype), b)
    from_a = jnp.einsum("nm,nc->mc", jax.nn.softmax(affinity, axis=0).astype(a.dtype), a)
    return from_b, from_a


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def coattend_blockwise(
    x: jax.Array, a: jax.Array, b: jax.Array, block: int = 512
) -> tuple[jax.Array, jax.Array]:
    """The same numbers as `coattend` while at most `block` rows [block, M] of the affinity exist.

    A block holds its rows whole, so their softmax is done at once; the columns' is carried from
    block to block as (largest value, sum of exponentials, weighted sum), the online softmax. The
    gradient computes the blocks again from both log-sums.
    """
    return _blockwise_forward(x, a, b, block)[0]


def _affinity(x: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum("nc,mc->nm", x.astype(jnp.float32), b.astype(jnp.float32))


def _blocks(rows: jax.Array, block: int) -> jax.Array:
    """[N, C] -> [ceil(N / block), block, C], the rest filled with zeros."""
    short = -rows.shape[0] % block
    return jnp.pad(rows, ((0, short), (0, 0))).reshape(-1, block, rows.shape[1])


def _real(n: int, block: int) -> jax.Array:
    """Which rows of `_blocks` are not filling: [blocks, block, 1]."""
    return (jnp.arange(-(-n // block) * block) < n).reshape(-1, block, 1)


def _blockwise_forward(
    x: jax.Array, a: jax.Array, b: jax.Array, block: int
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    def step(columns: tuple, rows: tuple) -> tuple[tuple, tuple]:
        top, total, weighted = columns
        x, a, real = rows
        affinity = jnp.where(real, _affinity(x, b), _MASKED)
        row_top = affinity.max(axis=1, keepdims=True)
        row_weights = jnp.exp(affinity - row_top)
        row_total = row_weights.sum(axis=1, keepdims=True)
        from_b = jnp.einsum("nm,mc->nc", (row_weights / row_total).astype(b.dtype), b)
        new_top = jnp.maximum(top, affinity.max(axis=0))
        fade, weights = jnp.exp(top - new_top), jnp.exp(affinity - new_top[None])
        total = total * fade + weights.sum(axis=0)
        seen = jnp.einsum("nm,nc->mc", weights, a.astype(jnp.float32))
        return (new_top, total, weighted * fade[:, None] + seen), (
            from_b,
            (row_top + jnp.log(row_total))[:, 0],
        )

    m, c = b.shape
    start = (jnp.full(m, _MASKED), jnp.zeros(m), jnp.zeros((m, c)))
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start)
    rows = _blocks(x, block), _blocks(a, block), _real(len(x), block)
    (top, total, weighted), (from_b, row_log) = lax.scan(step, start, rows)
    from_b = from_b.reshape(-1, c)[: len(x)]
    from_a = (weighted / total[:, None]).astype(a.dtype)
    kept = (x, a, b, from_b, from_a, row_log.reshape(-1), top + jnp.log(total))
    return (from_b, from_a), kept


def _blockwise_backward(block: int, kept: tuple, gradients: tuple) -> tuple:
    x, a, b, from_b, from_a, row_log, column_log = kept
    of_from_b, of_from_a = (g.astype(jnp.float32) for g in gradients)
    row_mean = jnp.einsum("nc,nc->n", of_from_b, from_b.astype(jnp.float32))
    column_mean = jnp.einsum("mc,mc->m", of_from_a, from_a.astype(jnp.float32))
    wide_b = b.astype(jnp.float32)

    def step(of_b: jax.Array, rows: tuple) -> tuple[jax.Array, tuple]:
        x, a, of_from_b, row_log, row_mean, real = rows
        affinity = _affinity(x, b)
        by_row = jnp.where(real, jnp.exp(affinity - row_log), 0)
        by_column = jnp.where(real, jnp.exp(affinity - column_log[None]), 0)
        of_affinity = by_row * (of_from_b @ wide_b.T - row_mean)
        of_affinity += by_column * (a.astype(jnp.float32) @ of_from_a.T - column_mean[None])
        of_b += of_affinity.T @ x.astype(jnp.float32) + by_row.T @ of_from_b
        return of_b, (of_affinity @ wide_b, by_column @ of_from_a)

    n, c = x.shape
    rows = (
        _blocks(x, block),
        _blocks(a, block),
        _blocks(of_from_b, block),
        row_log.reshape(-1, block, 1),
        _blocks(row_mean[:, None], block),
        _real(n, block),
    )
    of_b, (of_x, of_a) = lax.scan(step, jnp.zeros(b.shape, jnp.float32), rows)
    of_x, of_a = (g.reshape(-1, c)[:n] for g in (of_x, of_a))
    return of_x.astype(x.dtype), of_a.astype(a.dtype), of_b.astype(b.dtype)


coattend_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def attend_twice_normalised(x: jax.Array, b: jax.Array) -> jax.Array:
    """[N, C]: the released group model's summary, with a softmax of a softmax.

    The affinity is normalised over the rows (the target's places), and the softmax over the columns
    (all references' places) is taken of *that*, so of numbers in [0, 1]: nearly the columns' mean.
    """
    weights = jax.nn.softmax(jax.nn.softmax(_affinity(x, b), axis=0), axis=1)
    return jnp.einsum("nm,mc->nc", weights.astype(b.dtype), b)


def attend_twice_normalised_blockwise(x: jax.Array, b: jax.Array, block: int = 512) -> jax.Array:
    """The same numbers as `attend_twice_normalised`, `block` rows of the affinity at a time."""
    rows, real = _blocks(x, block), _real(len(x), block)

    @jax.checkpoint
    def column_sums(columns: tuple, rows: tuple) -> tuple[tuple, None]:
        top, total = columns
        affinity = jnp.where(rows[1], _affinity(rows[0], b), _MASKED)
        new_top = jnp.maximum(top, lax.stop_gradient(affinity.max(axis=0)))
        total = total * jnp.exp(top - new_top) + jnp.exp(affinity - new_top[None]).sum(axis=0)
        return (new_top, total), None

    start = (jnp.full(len(b), _MASKED, jnp.float32), jnp.zeros(len(b), jnp.float32))
    (top, total), _ = lax.scan(column_sums, start, (rows, real))
    column_log = top + jnp.log(total)

    @jax.checkpoint
    def summary(x: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.exp(_affinity(x, b) - column_log[None]), axis=1)
        return jnp.einsum("nm,mc->nc", weights.astype(b.dtype), b)

    return lax.map(summary, rows).reshape(-1, b.shape[1])[: len(x)]
