"""ConvLSTM peepholes that are tied to one size of map, brought to another.

`layers.recurrent.ConvLSTM(peephole="shared")` has one weight a place, so its variables fit maps of
one size alone. They are resized here, on the host, wherever weights meet another size: when a
published file is read (`jaxvos.torch_import`) and when a segmenter is made for pictures of another
size. The network itself refuses other sizes: it would resize anew in every step, in silence.
"""

import re
import warnings

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.layers.resize import bilinear
from jaxvos.typing import Variables

_PEEPHOLE = re.compile(r"params/(.*/)?peephole_[ifo]")


def is_peephole(path: str) -> bool:
    """Whether a variable's path is that of a peephole, as "params/lstm/peephole_i"."""
    return _PEEPHOLE.fullmatch(path) is not None


def resized(peephole: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A peephole [h, w] at another size (H, W), bilinear with the corners kept in place; warns."""
    warnings.warn(
        f"Peepholes that were learned on maps of {_by(peephole.shape)} are resized to {_by(size)}, "
        "which nobody trained: expect worse masks than at the original size of picture.",
        stacklevel=2,
    )
    return np.asarray(bilinear(jnp.asarray(peephole)[..., None], size, align_corners=True))[..., 0]


def fit_peepholes(variables: Variables, size: tuple[int, int]) -> Variables:
    """`variables` with all their peepholes [h, w] at `size`; warns if any was of another."""
    flat, size = flatten_dict(variables, sep="/"), tuple(size)
    other = [path for path in flat if is_peephole(path) and flat[path].shape != size]
    flat |= {path: resized(np.asarray(flat[path]), size) for path in other}
    return unflatten_dict(flat, sep="/") if other else variables


def check_peepholes(module: nn.Module, size: tuple[int, int]) -> None:
    """Refuses maps of `size` (h, w) if a module's own variables have peepholes of another."""
    params = module.variables.get("params", {})
    for path, leaf in flatten_dict(params, sep="/").items():
        if is_peephole(f"params/{path}") and leaf.shape != tuple(size):
            raise ValueError(
                f"{path} is for maps of {_by(leaf.shape)}, and these pictures give {_by(size)}: "
                "resize the pictures, or the peepholes by `layers.peepholes.fit_peepholes`. In "
                "a recipe, model.size and data.size have to agree."
            )


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
