"""DFNet from the backbone's features on answers as its definitions do, at every tap."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import sigmoid, softmax

from jaxvos.layers.mean_field import CRF, mean_field
from jaxvos.systems.dfnet import NAMES, SYSTEM, DFNet, loss
from jaxvos.torch_import import to_variables

from . import cases


def network(manifest: dict) -> DFNet:
    """The case's network; a small backbone stands before it and is not run."""
    constants, crf = manifest["constants"], manifest["constants"]["crf"]
    entering = next(p["shape"][1] for p in manifest["params"] if p["name"] == "proj.weight")
    return DFNet(
        depths=(1, 1, 1, 1),
        width=4,
        branch=entering,
        features=constants["c"],
        groups=constants["k"],
        momentum=constants["momentum"],
        colour_weight=crf["w1"],
        near_weight=crf["w2"],
        reach=crf["theta_alpha"],
        colours=crf["theta_beta"],
        near=crf["theta_gamma"],
        iterations=crf["iterations"],
    )


def variables_of(case: cases.Case, model: DFNet) -> dict:
    """All variables but the backbone's."""
    tensors = case.parameters()
    weights = tensors.pop("dfm.W")  # its values are no parameters but move with training
    pictures = jnp.zeros(SYSTEM.shapes(model)["frames"])
    shapes = jax.eval_shape(model.init, jax.random.key(0), pictures)
    shapes["params"].pop("encoder")
    shapes["batch_stats"] = {"head": shapes["batch_stats"]["head"]}
    made = to_variables(tensors, NAMES, shapes)
    made["batch_stats"]["dfm"] = {"W": weights}
    return made


def inputs_of(case: cases.Case) -> dict[str, jax.Array]:
    """[N, h, w, C]; what "how" says of each, over the plain pictures."""
    make = {
        "features": lambda picture: picture,
        "guide": lambda picture: 0.7 * picture,
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


def taps(model: DFNet, variables: dict, inputs: dict) -> dict[str, jax.Array]:
    """Every stored output but the loss and its gradients."""
    apply = partial(model.apply, variables)
    crf = CRF(*(getattr(model, name) for name in CRF._fields))
    projected = apply(inputs["features"], method=lambda m, x: m.proj(x))[None]
    scores, found = apply(projected, method="discriminate")
    _, moved = apply(projected, True, method="discriminate", mutable=["batch_stats"])
    logits = apply(projected, found, method=lambda m, *args: m.atm(*args))[0]
    places = lambda x: x.reshape(len(x), -1, x.shape[-1])  # noqa: E731
    iterations = jax.vmap(lambda logits, guide: mean_field(logits, guide, crf))(
        logits, inputs["guide"]
    )
    plain = model.copy(iterations=0).apply(
        variables, projected, found, inputs["guide"][None], method="attend"
    )
    new = apply(projected, found, inputs["guide"][None], method="attend")
    gates = lambda m, a, b: (sigmoid(m.gate_new(a)), sigmoid(m.gate_f(b)))  # noqa: E731
    gate_new, gate_f = apply(new[0], projected[0], method=gates)
    decide = (projected, found, inputs["guide"][None])
    answer, inside = apply(*decide, method="decide", mutable=["intermediates"])
    with_relu = model.copy(head_relu=True).apply(variables, *decide, method="decide")
    return {
        "proj": nchw(projected[0]),
        "scores": scores[0],
        "d_features": found[0],
        "dfm.W_updated": moved["batch_stats"]["dfm"]["W"],
        "attention_logits": places(logits),
        "attention": places(softmax(logits, axis=-1)),
        **{f"crf_q{i}": places(q) for i, q in enumerate(iterations) if i},
        "f_new": nchw(new[0]),
        "f_new_no_crf": nchw(plain[0]),
        "gate_new": nchw(gate_new),
        "gate_f": nchw(gate_f),
        "head_bn": nchw(inside["intermediates"]["head"]["normalised"][0]),
        "logits": nchw(answer[0]),
        "logits_relu": nchw(with_relu[0]),
        "mask": nchw(sigmoid(answer[0])),
        "gt": nchw(inputs["gt"]),
    }


def objective(params: dict, model: DFNet, statistics: dict, inputs: dict) -> jax.Array:
    apply = partial(model.apply, {"params": params, "batch_stats": statistics})
    projected = apply(inputs["features"], method=lambda m, x: m.proj(x))[None]
    _, found = apply(projected, method="discriminate")
    logits = apply(projected, found, inputs["guide"][None], method="decide")
    return loss({"frames": logits, "scores": 0.0}, {"masks": inputs["gt"][None]})[0]


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients under the case's names and in its layout."""
    conv = lambda kernel: jnp.transpose(kernel, (3, 2, 0, 1))  # noqa: E731
    return {
        "grad.atm.W_att": grads["atm"]["W_att"],
        "grad.proj.bias": grads["proj"]["bias"],
        "grad.gate_new.weight": conv(grads["gate_new"]["kernel"]),
        "grad.head.conv1.weight": conv(grads["head"]["conv1"]["kernel"]),
    }


@pytest.mark.parametrize("folder", cases.folders("dfnet"), ids=lambda f: f and f.name)
def test_every_output_the_loss_and_its_gradients_are_as_defined(folder):
    case = cases.load(folder)
    model = network(case.manifest)
    variables, inputs = variables_of(case, model), inputs_of(case)

    @jax.jit
    def everything(variables: dict, inputs: dict) -> dict[str, jax.Array]:
        value, grads = jax.value_and_grad(objective)(
            variables["params"], model, variables["batch_stats"], inputs
        )
        return taps(model, variables, inputs) | {"loss": value} | gradients(grads)

    case.compare({k: np.asarray(v) for k, v in everything(variables, inputs).items()})
