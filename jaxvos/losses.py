"""Losses that several systems were published with, on logits; one number each."""

import jax
import jax.numpy as jnp
import optax


def balanced_bce(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Binary cross entropy times one weight, places / positive places of the batch.

    The released codes divide by zero where a batch holds no positive place; there the weight is 1.

    Args:
        logits: Of any shape.
        mask: The same shape, in {0, 1}.
    """
    positive = mask.sum()
    weight = jnp.where(positive > 0, mask.size / jnp.maximum(positive, 1), 1.0)
    # PyTorch's BCE never goes beyond 100.
    return weight * jnp.minimum(optax.sigmoid_binary_cross_entropy(logits, mask), 100.0).mean()


def cross_entropy(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean binary cross entropy."""
    return optax.sigmoid_binary_cross_entropy(logits, mask).mean()


def l1(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute difference of probability and mask."""
    return jnp.abs(jax.nn.sigmoid(logits) - mask).mean()


def balanced_bce_and_l1(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """`balanced_bce` plus 0.8 times `l1`, what COSNet and its descendants AGNN and F2Net train."""
    return balanced_bce(logits, mask) + 0.8 * l1(logits, mask)


def soft_iou(probabilities: jax.Array, mask: jax.Array) -> jax.Array:
    """1 - the overlap of the least over that of the greatest of both, the mean over the answers.

    Args:
        probabilities: [B, H, W, K], K answers in 0..1.
        mask: [B, H, W, 1] in 0..1. Where it and an answer are empty, they agree.
    """
    shared = jnp.minimum(probabilities, mask).sum(axis=(1, 2))
    either = jnp.maximum(probabilities, mask).sum(axis=(1, 2))
    return 1 - jnp.where(either > 0, shared / jnp.where(either > 0, either, 1), 1).mean()
