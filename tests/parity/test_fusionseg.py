"""FusionSeg at full depth answers as the released streams do, at every tap.

The joint stream's weights are its authors' own, so that they are not in this repository: it is
compared where a case that brings them is at hand.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.flow.colour import picture
from jaxvos.layers.flow_pictures import wheel_picture
from jaxvos.systems.fusionseg import EPS, NAMES, FusionSeg
from jaxvos.torch_import import to_variables

from . import cases
from .clips import oihw, stored

MODEL = FusionSeg()
SUFFIX = {"appearance": "", "motion": "_motion"}
HEAD = {"appearance": "fc1_binary_seg", "motion": "fc1_binary_seg_flow"}


def nchw(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def drawn(case: cases.Case, name: str) -> np.ndarray:
    """A drawn input by the name of its entry, [N, C, H, W] float64."""
    (shape,) = (e["shape"] for e in case.manifest["inputs"] if e["name"] == name)
    return cases.image(case.manifest["case"], name, [1, *shape][-4:])


def stream(case: cases.Case, name: str, shapes: dict) -> dict[str, jax.Array]:
    """Everything of one stream under the published names, and its "logits" [1, H, W, 2]."""
    tensors = {k: v for k, v in case.parameters().items() if k.startswith(f"{name}/")}
    target = {part: {name: leaves[name]} for part, leaves in shapes.items()}
    variables = to_variables(tensors, NAMES, target)

    @jax.jit
    def run(variables: dict, pictures: jax.Array) -> tuple[jax.Array, dict]:
        logits, inside = MODEL.apply(
            variables,
            pictures,
            method=lambda module, x: getattr(module, name)(x),
            capture_intermediates=lambda module, _: (module.name or "").startswith("fc1"),
            mutable=["intermediates"],
        )
        return logits, inside["intermediates"][name]

    logits, inside = run(variables, cases.nhwc(drawn(case, f"{name}/data").astype(np.float32)))
    net, end, head = inside["resnet"], SUFFIX[name], HEAD[name]
    taps = {
        f"pool1{end}": net["pooled"][0],
        f"res2c{end}": net["layer1_out"][0],
        f"res3b3{end}": net["layer2_out"][0],
        f"res4b22{end}": net["layer3_out"][0],
        f"res5c{end}": net["layer4_out"][0],
        f"{head}{end}": inside["small"][0],
        f"fc1_interp{end}": logits,
    }
    for i in range(4):
        taps[f"{head}_c{i}{end}"] = inside[f"fc1_c{i}"]["__call__"][0]
    named = {f"{name}/{tap}": nchw(value) for tap, value in taps.items()}
    size = drawn(case, f"{name}/data").shape[2:]
    return named | {"logits": logits[:, : size[0], : size[1]]}


def joint(case: cases.Case, variant: str, shapes: dict, logits: list[jax.Array]) -> dict:
    """Everything of one of the two published joint streams, of these logits and of drawn ones."""
    own = f"joint_{variant}/"
    tensors = {
        k.replace(own, "joint/"): v for k, v in case.parameters().items() if k.startswith(own)
    }
    variables = to_variables(tensors, NAMES, {"params": {"joint": shapes["params"]["joint"]}})
    run = jax.jit(lambda v, *x: MODEL.apply(v, *x, method="fuse", mutable=["intermediates"]))
    two, inside = run(variables, *logits)
    other = [
        cases.nhwc((5 * drawn(case, f"joint/{x}_data")).astype(np.float32)) for x in ("app", "mot")
    ]
    weights = {}
    for layer, leaves in variables["params"]["joint"].items():
        weights[f"real_weights/{variant}/{layer}.weight"] = oihw(leaves["kernel"])
        weights[f"real_weights/{variant}/{layer}.bias"] = leaves["bias"]
    return weights | {
        f"joint_{variant}/conv_sum": nchw(inside["intermediates"]["joint"]["conv_sum"][0]),
        f"joint_{variant}/conv2": nchw(two),
        f"joint_{variant}/fg_prob": jax.nn.softmax(two, axis=-1)[..., 1],
        f"joint_only_{variant}/conv2_ch1": run(variables, *other)[0][..., 1],
    }


def check_colours(case: cases.Case) -> None:
    """Levels are cut, so that the last bit decides some: few may be the next one."""
    field = drawn(case, "flow")[0]
    field = np.moveaxis(field * [[[1.0]], [[0.7]]], 0, -1)
    expected = case.outputs["flow_rgb"]
    for ours in (picture(field, eps=EPS), wheel_picture(jnp.asarray(field), eps=EPS)):
        off = np.abs(np.asarray(ours, np.float64) - expected)
        assert off.max() <= 1
        assert (off > 0).mean() < 5e-3


def check(folder: Path) -> None:
    case = cases.load(folder)
    example = jax.ShapeDtypeStruct((1, 1, 33, 49, 3), jnp.float32)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), example, example)
    ours, logits = {}, []
    for name in SUFFIX:
        ours |= stream(case, name, shapes)
        logits.append(ours.pop("logits"))
    for variant in ("train", "val"):
        if any(p["name"].startswith(f"joint_{variant}/") for p in case.manifest["params"]):
            ours |= joint(case, variant, shapes, logits)
    check_colours(case)
    expected = {k: v for k, v in case.outputs.items() if k != "flow_rgb"}
    weights = {k: v for k, v in ours.items() if k in expected}
    case._replace(outputs=expected).compare(weights | stored(case, ours))


@pytest.mark.parametrize("folder", cases.folders("fusionseg"), ids=lambda f: f and f.name)
def test_every_output_is_the_released_networks(folder):
    check(folder)


def test_every_output_of_the_joint_stream_is_the_released_ones(shared_data):
    check(shared_data / "parity" / "fusionseg")
