"""What published networks expect of a picture's values: channel order, mean, scale."""

import jax
import jax.numpy as jnp

MEAN_BGR = (104.00699, 116.66877, 122.67892)
MEAN_RGB, STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def caffe_bgr(pictures: jax.Array) -> jax.Array:
    """Pictures [..., H, W, 3] RGB in 0..255 -> BGR float32 minus the mean."""
    return pictures[..., ::-1].astype(jnp.float32) - _channels(MEAN_BGR, pictures.ndim)


def imagenet(pictures: jax.Array) -> jax.Array:
    """Pictures [..., H, W, 3] RGB in 0..255 -> float32 of torchvision's mean and deviation."""
    scaled = pictures.astype(jnp.float32) / 255
    return (scaled - _channels(MEAN_RGB, pictures.ndim)) / _channels(STD_RGB, pictures.ndim)


def _channels(values: tuple[float, ...], ndim: int) -> jax.Array:
    return jnp.asarray(values, jnp.float32).reshape((1,) * (ndim - 1) + (3,))
