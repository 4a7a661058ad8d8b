"""Pooling with PyTorch's edge rules."""

import flax.linen as nn
import jax


def max_pool(x: jax.Array, window: int, stride: int, padding: int, *, ceil: bool) -> jax.Array:
    """Largest values of windows of [B, H, W, C]; `ceil` keeps a window that hangs over the edge.

    Like PyTorch, a window that would begin beyond the (left-padded) picture is dropped even so.
    """
    spans = [
        (padding, _right_padding(n, window, stride, padding) if ceil else padding)
        for n in x.shape[1:3]
    ]
    return nn.max_pool(x, (window, window), (stride, stride), spans)


def _right_padding(n: int, window: int, stride: int, padding: int) -> int:
    outputs = -(-(n + 2 * padding - window) // stride) + 1
    if (outputs - 1) * stride >= n + padding:
        outputs -= 1
    return max(0, (outputs - 1) * stride + window - n - padding)
