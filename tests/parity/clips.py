"""Parity cases of the ConvLSTM networks: one clip, outputs cut to some frames and channels."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from .cases import Case


def clip(pictures: np.ndarray) -> jax.Array:
    """[T, C, H, W] -> [1, T, H, W, C]."""
    return jnp.asarray(np.moveaxis(pictures, 1, -1), jnp.float32)[None]


def tchw(maps: jax.Array) -> jax.Array:
    """[1, T, H, W, C] or [T, H, W, C] -> [T, C, H, W]."""
    return jnp.moveaxis(maps.reshape(-1, *maps.shape[-3:]), -1, 1)


def tnchw(maps: jax.Array) -> jax.Array:
    """[1, T, H, W, C] -> [T, 1, C, H, W]."""
    return tchw(maps)[:, None]


def oihw(kernel: jax.Array) -> jax.Array:
    return jnp.transpose(kernel, (3, 2, 0, 1))


def stored(case: Case, whole: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """What the case stores of whole maps: some frames and channels of each, and its statistics."""
    kept = {}
    for entry in case.manifest["outputs"]:
        name = entry["name"]
        if name not in whole:
            continue
        value = np.asarray(whole[name])
        if f"{name}.stats" in case.outputs:
            moments = value.mean(), value.std(), np.abs(value).mean(), value.min(), value.max()
            kept[f"{name}.stats"] = np.array(moments)
        if "stored" in entry:
            frames, last = re.match(
                r"frames \[([\d, ]+)\].* (?:channels )0:(\d+)", entry["stored"]
            ).groups()
            value = value[[int(t) for t in frames.split(",")]]
            axis = 2 if "axis-2" in entry["stored"] else 1
            value = value.take(np.arange(int(last)), axis=axis)
        kept[name] = value
    return kept
