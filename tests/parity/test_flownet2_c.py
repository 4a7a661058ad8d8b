"""FlowNet2-C at full width answers as the released network does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.flow.flownet import FlowNet2C, prepare
from jaxvos.layers.flownet import SCALE
from jaxvos.layers.resize import bilinear
from jaxvos.systems.flownet2_c import NAMES
from jaxvos.torch_import import to_variables

from . import cases

MODEL = FlowNet2C()


def pictures(case: cases.Case) -> np.ndarray:
    """The pair [1, 2, H, W, 3] RGB uint8; the case has BGR."""
    (entry,) = case.manifest["inputs"]
    _, channels, count, height, width = entry["shape"]
    drawn = cases.image(case.manifest["case"], "images", [count, channels, height, width])
    levels = np.clip(np.round(128 + 45 * drawn), 0, 255)
    return np.moveaxis(levels, 1, -1)[None, ..., ::-1].astype(np.uint8)


@jax.jit
def everything(variables: dict, frames: jax.Array) -> dict[str, jax.Array]:
    """Every stored output, channels first, whole."""
    flows, inside = MODEL.apply(
        variables, prepare(frames), capture_intermediates=True, mutable=["intermediates"]
    )
    inside = inside["intermediates"]
    first = lambda x: jnp.moveaxis(x, -1, 1)  # noqa: E731
    leaky = lambda module: jax.nn.leaky_relu(module["__call__"][0], 0.1)  # noqa: E731
    return {
        "flow": first(bilinear(SCALE * flows[0], frames.shape[2:4])),
        "tap_flow2": first(flows[0]),
        "tap_flow6": first(flows[-1]),
        "tap_corr": first(inside["alike"][0])[:, ::9],
        "tap_conv1_prev": first(inside["shallow"]["conv1_out"][0])[1:],
        "tap_conv3_prev": first(inside["eighth"][0][:, 1]),
        "tap_redir": first(inside["own"][0]),
        "tap_conv3_1": first(leaky(inside["deep"]["conv3_1"])),
        "tap_conv6_1": first(leaky(inside["deep"]["conv6_1"])),
        "tap_deconv5": first(leaky(inside["refinement"]["deconv5"])),
    }


@pytest.mark.parametrize("folder", cases.folders("flownet2_c"), ids=lambda f: f and f.name)
def test_flownet2_c_answers_as_released(folder):
    case = cases.load(folder)
    frames = jnp.asarray(pictures(case))
    target = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 2, 64, 64, 3)))
    variables = to_variables(case.parameters(), NAMES, target)
    ours = everything(variables, frames)
    stored = {k: tuple(slice(n) for n in v.shape) for k, v in case.outputs.items()}
    case.compare({name: value[stored[name]] for name, value in ours.items()})
    whole = MODEL.apply(variables, prepare(frames), method="flow")
    np.testing.assert_allclose(np.moveaxis(whole, -1, 1), ours["flow"], atol=1e-3)
