"""MP-Net at full depth answers as the released network does, at every tap.

Gradients are computed in float64: in float32 some of their numbers differ from machine to machine
by more than the tolerance.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import sigmoid

from jaxvos.layers.flow_pictures import angle_magnitude
from jaxvos.systems.mpnet import NAMES, MPNet, loss
from jaxvos.torch_import import to_variables

from . import cases
from .clips import oihw, stored

DAVIS = float(np.hypot(854, 480))  # whatever the case's own size
LEVELS = ("s1", "s2", "s3", "s4", "s5", "up1", "up2", "up3", "up4")


def nchw(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def inputs_of(case: cases.Case) -> tuple[jax.Array, jax.Array]:
    """Flow [1, H, W, 2] in pixels and the label [1, 1, h, w, 1]."""
    shapes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    seed = case.manifest["case"]
    flow = 6 * cases.image(seed, "flow", [1, *shapes["flow"]])
    label = cases.image(seed, "label", shapes["label"]) > 0.3
    flow, label = (cases.nhwc(x).astype(jnp.float32) for x in (flow, label))
    return flow, label[:, None]


@pytest.mark.parametrize("folder", cases.folders("mpnet"), ids=lambda f: f and f.name)
def test_every_output_the_loss_and_its_gradients_are_the_released_networks(folder):
    case = cases.load(folder)
    flow, label = inputs_of(case)
    model = MPNet()
    encoded = angle_magnitude(flow, diagonal=DAVIS, still=1.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), encoded[:, None])
    variables = to_variables(case.parameters(), NAMES, shapes)

    def total(params: dict, variables: dict, encoded: jax.Array, label: jax.Array) -> tuple:
        own = {**variables, "params": params}
        outputs, inside = model.apply(own, encoded[:, None], mutable=["intermediates"])
        logits, inside = outputs["motion"][:, 0], inside["intermediates"]["motion"]
        value = loss(outputs, {"masks": label})[0]
        return value, {
            **{name: nchw(inside[name][0]) for name in LEVELS},
            "enc1": nchw(inside["enc1_out"][0]),
            "logit": nchw(logits),
            "prob": nchw(sigmoid(logits)),
            "loss": value,
        }

    given = variables["params"], variables, encoded, label
    ours = jax.device_get(jax.jit(total)(*given)[1]) | {"input": nchw(encoded)}
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), given)
        grads = jax.device_get(jax.jit(jax.grad(total, has_aux=True))(*exact)[0])["motion"]
    small = {
        "loss": ours["loss"],
        "grad/score.weight": oihw(grads["score"]["kernel"]),
        "grad/score.bias": grads["score"]["bias"],
        "grad/dec4b.conv.bias": grads["dec4b"]["conv"]["bias"],
        "grad/dec4b.bn.weight": grads["dec4b"]["bn"]["scale"],
    }
    case.compare(stored(case, ours) | small)
