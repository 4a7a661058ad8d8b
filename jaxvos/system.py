"""What a published system consists of: a record of functions, not a base class."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvos.typing import Batch, Metrics, Segmenter, Variables


class Facts(NamedTuple):
    """What a user asks of a published system before choosing it; README's table has the same.

    Attributes:
        needs: What it needs of a video.
        trained: The data it was trained on.
        reported: J / F on DAVIS-2016 val as published, with and without a CRF, or what there is.
        error: Largest error of ours against the reference, and the number of outputs compared.
    """

    needs: str
    trained: str
    reported: str
    error: str


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
        backbone: Module path that weights of an ImageNet network are loaded under; several with
            "+" between are given the same ones.
        facts: What it needs, was trained on, is reported to reach, and how near to it we are.
        reads: What it needs of a video beside the frames: "flow", "first_mask".
        shapes: model -> the shape of each of its inputs, for variables to be made with, where they
            are not single pictures.
        started_from: (variables of an earlier stage's network, this one's) -> this one's, begun
            with the other's, where a recipe's stages train networks that differ.
    """

    title: str
    model: type[nn.Module]
    inputs: Mapping[str, Callable[[jax.Array], jax.Array]]
    loss: Callable[[Any, Batch], tuple[jax.Array, Metrics]]
    segmenter: Callable[..., Segmenter]
    names: tuple[tuple[str, str], ...]
    backbone: str
    facts: Facts
    reads: tuple[str, ...] = ()
    shapes: Callable[[nn.Module], Mapping[str, tuple[int, ...]]] | None = None
    started_from: Callable[[Variables, Variables], Variables] | None = None


def initialise(system: System, model: nn.Module, seed: int) -> Variables:
    """New variables of a model: parameters drawn by `seed`, statistics of a standard normal."""
    return _made(jax.jit(model.init)(jax.random.key(seed), *_examples(system, model)))


def shapes(system: System, model: nn.Module) -> Variables:
    """A model's variables as shapes; nothing is computed."""
    return _made(jax.eval_shape(model.init, jax.random.key(0), *_examples(system, model)))


def inputs_of(system: System, batch: Batch) -> list[jax.Array]:
    """What the model is called with: the batch's part of each input, prepared.

    A step on still images has one `mask` [B, H, W, 1]; a model that is given `masks` gets it as
    those of a clip of one frame.
    """
    if "masks" in system.inputs and "masks" not in batch:
        batch = {**batch, "masks": batch["mask"][:, None]}
    return [prepare(batch[name]) for name, prepare in system.inputs.items()]


def _examples(system: System, model: nn.Module) -> list[jax.Array]:
    """Inputs to make variables with: prepared pictures, small since no shape depends on them."""
    given = system.shapes(model) if system.shapes else {}
    return [
        prepare(jnp.zeros(given.get(name, (1, 33, 49, 3))))
        for name, prepare in system.inputs.items()
    ]


def _made(variables: Variables) -> Variables:
    return {name: variables[name] for name in ("params", "batch_stats") if name in variables}
