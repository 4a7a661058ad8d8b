"""FGRNE from the host's features and their flow on answers as its definitions do, at every tap."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.warping import warp
from jaxvos.system import System
from jaxvos.systems.fgrne import FGRNE, NAMES, SYSTEM, loss
from jaxvos.torch_import import to_variables

from . import cases

# The case's ConvLSTMs are single tensors; ours are the modules that they belong to.
OURS = {"wx": "x_conv.weight", "wh": "h_conv.weight", "b": "bias"}
OURS |= {f"p{gate}": f"peephole_{gate}" for gate in "ifo"}


class Host(nn.Module):
    """Stands before the case's features: its own are as many, at the pictures' size."""

    features: int

    @nn.compact
    def __call__(self, pictures: jax.Array, train: bool) -> jax.Array:
        return jnp.zeros((*pictures.shape[:-1], self.features))


def network(case: cases.Case) -> FGRNE:
    shapes = {p["name"]: p["shape"] for p in case.manifest["params"]}
    hidden, entering = shapes["feat_lstm.wx"][:2]
    return FGRNE(
        host=Host(entering),
        flow_hidden=shapes["flow_lstm.wx"][0] // 4,
        hidden=hidden // 4,
    )


def variables_of(case: cases.Case, model: FGRNE, system: System = SYSTEM) -> dict:
    tensors = {}
    for name, tensor in case.parameters().items():
        module, _, kind = name.rpartition(".")
        if kind.startswith("p"):
            if not model.peephole:
                continue
            tensor = np.moveaxis(tensor, 0, -1)  # a weight a place and channel, not a kernel
        tensors[f"{module}.{OURS.get(kind, kind)}"] = tensor
    inputs = [jnp.zeros(system.shapes(model)[name]) for name in system.inputs]
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return to_variables(tensors, NAMES, shapes)


def inputs_of(case: cases.Case) -> dict[str, jax.Array]:
    """[frames, h, w, C]; what "how" says of each, over the plain pictures."""
    make = {
        "features": lambda picture: picture,
        "flow": lambda picture: 1.7 * picture + 0.3,
        "gt": lambda picture: picture > 0.4,
    }
    entries = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    return {
        name: cases.nhwc(make[name](cases.image(case.manifest["case"], name, shape))).astype(
            jnp.float32
        )
        for name, shape in entries.items()
    }


def nchw(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def encoded(model: FGRNE, variables: dict, inputs: dict) -> dict[str, jax.Array]:
    """What comes of the second ConvLSTM, with or without peepholes."""
    apply = partial(model.apply, variables)
    features, flow = inputs["features"][None], inputs["flow"][None]
    refined, _ = apply(flow, method="refine")
    sequence = apply(features, refined, method="gather")
    hidden, cells = apply(sequence, method=lambda m, x: m.feat_lstm(x, cells=True))
    logits = apply(hidden[:, -1], method=lambda m, x: m.reg(x))
    return {
        "feat_hidden": nchw(hidden[0]),
        "feat_cell_last": nchw(cells[:, -1]),
        "logits": nchw(logits),
    }


def taps(model: FGRNE, variables: dict, inputs: dict) -> dict[str, jax.Array]:
    """Every stored output of the network without peepholes but the loss and its gradients."""
    apply = partial(model.apply, variables)
    features, flow = inputs["features"], inputs["flow"]
    refined, states = apply(flow[None], method="refine")
    _, cells = apply(flow[None], method=lambda m, x: m.flow_lstm(x, cells=True))
    warped = apply(features[None], refined, method="gather")[0, :-1]
    rest = encoded(model, variables, inputs)
    return {
        "warp_plain": nchw(warp(features[:-1][::-1], flow, fade=True)),
        "flow_hidden": nchw(states[0]),
        "flow_refined": nchw(refined[0]),
        "flow_cell_last": nchw(cells[:, -1]),
        "warped": nchw(warped[::-1]),
        **rest,
        "saliency": nn.sigmoid(rest["logits"]),
        "gt": nchw(inputs["gt"]),
    }


def objective(params: dict, model: FGRNE, inputs: dict) -> jax.Array:
    logits = encoded(model, {"params": params}, inputs)["logits"]
    return loss({"reference": jnp.moveaxis(logits, 1, -1)}, {"masks": inputs["gt"][None]})[0]


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients under the case's names and in its layout."""
    conv = lambda kernel: jnp.transpose(kernel, (3, 2, 0, 1))  # noqa: E731
    return {
        "grad.flow_lstm.wx": conv(grads["flow_lstm"]["x_conv"]["kernel"]),
        "grad.flow_out.bias": grads["flow_out"]["bias"],
        "grad.feat_lstm.wh": conv(grads["feat_lstm"]["h_conv"]["kernel"]),
        "grad.reg.weight": conv(grads["reg"]["kernel"]),
    }


@pytest.mark.parametrize("folder", cases.folders("fgrne"), ids=lambda f: f and f.name)
def test_every_output_the_loss_and_its_gradients_are_as_defined(folder):
    case = cases.load(folder)
    inputs = inputs_of(case)
    plain = network(case)
    peephole = plain.copy(peephole=inputs["features"].shape[1:3])

    @jax.jit
    def everything(variables: dict, with_peepholes: dict, inputs: dict) -> dict[str, jax.Array]:
        value, grads = jax.value_and_grad(objective)(variables["params"], plain, inputs)
        more = encoded(peephole, with_peepholes, inputs)
        return (
            taps(plain, variables, inputs)
            | {f"{name}_peephole": value for name, value in more.items()}
            | {"loss": value}
            | gradients(grads)
        )

    made = [variables_of(case, model) for model in (plain, peephole)]
    case.compare({k: np.asarray(v) for k, v in everything(*made, inputs).items()})
