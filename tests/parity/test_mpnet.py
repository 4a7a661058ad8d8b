"""MP-Net at full depth answers as the released network does, at every tap.

Gradients are computed in float64: what a maximum or a ReLU decides by float32's rounding differs
from one kind of CPU to another.
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

pytestmark = pytest.mark.parity

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

    @jax.jit
    def everything(variables: dict, encoded: jax.Array, label: jax.Array) -> dict:
        def total(params: dict) -> tuple:
            own = {**variables, "params": params}
            outputs, inside = model.apply(own, encoded[:, None], mutable=["intermediates"])
            return loss(outputs, {"masks": label})[0], (outputs, inside["intermediates"])

        (value, (outputs, inside)), grads = jax.value_and_grad(total, has_aux=True)(
            variables["params"]
        )
        logits, grads = outputs["motion"][:, 0], grads["motion"]
        taps = {name: nchw(inside["motion"][name][0]) for name in LEVELS}
        return taps | {
            "enc1": nchw(inside["motion"]["enc1_out"][0]),
            "logit": nchw(logits),
            "prob": nchw(sigmoid(logits)),
            "loss": value,
            "grad/score.weight": oihw(grads["score"]["kernel"]),
            "grad/score.bias": grads["score"]["bias"],
            "grad/dec4b.conv.bias": grads["dec4b"]["conv"]["bias"],
            "grad/dec4b.bn.weight": grads["dec4b"]["bn"]["scale"],
        }

    ours = jax.device_get(everything(variables, encoded, label)) | {"input": nchw(encoded)}
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        finer = jax.device_get(everything(exact, np.float64(encoded), label))
    ours |= {name: value for name, value in finer.items() if name.startswith("grad/")}
    small = {k: v for k, v in ours.items() if k.startswith(("grad/", "loss"))}
    case.compare(stored(case, ours) | small)
