"""What a published system consists of: a record of functions, not a base class."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.typing import Batch, Metrics, Segmenter, Variables


class System(NamedTuple):
    """One published system.

    Attributes:
        title: Name, authors, venue and idea in one line.
        model: The Flax module; its constructor's keywords are the system's options.
        inputs: What of a batch the model is called with, in order, each with its preparation: from
            RGB in 0..255 to the channel order, mean and scale that the network expects.
        loss: (outputs, batch) -> (scalar loss, metrics).
        segmenter: (model, variables, **options) -> Segmenter: the paper's inference protocol.
        names: (regular expression of a published module's name, our module path) pairs; see
            `jaxvos.torch_import`.
        backbone: Module path that weights of an ImageNet ResNet are loaded under.
        reads: What it needs of a video beside the frames: "flow", "first_mask".
    """

    title: str
    model: type[nn.Module]
    inputs: Mapping[str, Callable[[jax.Array], jax.Array]]
    loss: Callable[[Any, Batch], tuple[jax.Array, Metrics]]
    segmenter: Callable[..., Segmenter]
    names: tuple[tuple[str, str], ...]
    backbone: str
    reads: tuple[str, ...] = ()


def initialise(system: System, model: nn.Module, seed: int) -> Variables:
    """New variables of a model: parameters drawn by `seed`, statistics of a standard normal."""
    picture = jnp.zeros((1, 33, 49, 3))  # their shapes do not depend on it
    pictures = [prepare(picture) for prepare in system.inputs.values()]
    variables = jax.jit(model.init)(jax.random.key(seed), *pictures)
    return {name: variables[name] for name in ("params", "batch_stats") if name in variables}
