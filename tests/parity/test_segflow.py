"""SegFlow at full depth answers as the released network does, on the case's odd sizes too.

Gradients are computed in float64: in float32 some of their numbers differ from machine to machine
by more than the tolerance.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.system import shapes
from jaxvos.systems import segflow
from jaxvos.torch_import import to_variables

from . import cases
from .clips import stored

MODEL = segflow.SegFlow()


def inputs_of(case: cases.Case) -> dict[str, jax.Array]:
    """The case's inputs, channels last."""
    sizes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    sizes["label"] = [1, *sizes["label"]]
    made = {name: cases.image(case.manifest["case"], name, shape) for name, shape in sizes.items()}
    made["data"], made["data2"] = 60 * made["data"], 60 * made["data2"]
    made["label"], made["gtflow"] = made["label"] > 0.5, 4 * made["gtflow"]
    return {name: cases.nhwc(np.float32(value)) for name, value in made.items()}


def taps(inside: dict) -> dict[str, jax.Array]:
    """What is stored of the network's insides, whole, channels last."""
    out = lambda module: module["__call__"][0]  # noqa: E731
    leaky = lambda module: jax.nn.leaky_relu(out(module), 0.1)  # noqa: E731
    resnet, flownet = inside["resnet"], inside["flownet"]
    flows, joined = out(flownet["refinement"])
    picture, pair, own, final = inside["own_flow"][0]
    res3, res4, res5 = (out(resnet[f"layer{i}"]) for i in (2, 3, 4))
    pool = lambda x: segflow.max_pool(x, 3, 2, 0, ceil=True)  # noqa: E731
    nothing = lambda x: x[..., :0]  # noqa: E731
    crops = {
        "concat4c": segflow._join(nothing(res5), pool(joined[2]), 1),
        "concat3c": segflow._join(nothing(res4), pool(joined[1]), 2),
        "concat2c": segflow._join(nothing(res3), pool(joined[0]), 4),
        "concat3c_flow": segflow._join(nothing(res4), pool(joined[1]), 0),
    }
    return crops | {
        "pool1": resnet["pooled"][0],
        "res2c": out(resnet["layer1"]),
        "res3b3": res3,
        "res4b22": res4,
        "res5c": res5,
        "img0_nomean": picture,
        "img0_nomean_resize": pair[..., :3],
        "conv1_flowS": flownet["shallow"]["conv1_out"][0],
        "conv3_1": leaky(flownet["deep"]["conv3_1"]),
        "conv6_1": leaky(flownet["deep"]["conv6_1"]),
        "predict_flow6": flows[4],
        **{f"concat{i + 2}": x for i, x in enumerate(joined)},
        "predict_flow2": flows[0],
        "predict_flow_resize": own,
        "predict_flow_final": final,
        "score_res5": inside["segmentation"]["fused"][0],
        "fuse_res4": inside["segmentation"]["fused"][1],
        "fuse_res3": inside["segmentation"]["fused"][2],
        "fuse_res3_flow": inside["motion"]["fused"][2],
    }


def everything(variables: dict, inputs: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What gradients are stored of, and all other stored outputs."""
    outputs, inside = MODEL.apply(
        variables,
        inputs["data"],
        inputs["data2"],
        method="look",
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    maps = taps(inside["intermediates"]) | {
        "score": outputs["score"],
        "score_flow": outputs["flow"],
    }
    (plain,), (balanced,) = (
        segflow.cross_entropy(outputs["score"], inputs["label"], balanced=balanced)
        for balanced in (False, True)
    )
    error = segflow.end_point_error(outputs["flow"], inputs["gtflow"])
    named = {name: jnp.moveaxis(value, -1, 1) for name, value in maps.items()}
    named |= {"loss/seg_sum": plain, "loss/seg_balanced_sum": balanced, "loss/epe": error}
    return plain / inputs["label"].size + error, named


def gradients(grads: dict, case: cases.Case) -> dict[str, jax.Array]:
    """The stored gradients: biases, and the sum that a mean is stored as."""
    found, factors = {}, case.parameters()
    for name in case.outputs:
        module, _, kind = name.removeprefix("grad/").rpartition(".")
        if not name.startswith("grad/"):
            continue
        match, path = next(
            (m, p) for pattern, p in segflow.NAMES if (m := cases.re.fullmatch(pattern, module))
        )
        node = grads["batch_stats" if kind == "mean" else "params"]
        for part in match.expand(path).split("/"):
            node = node[part]
        by = factors[f"{module}.scale_factor"] if kind == "mean" else 1
        found[name] = node[kind] / by
    return found


@pytest.mark.parametrize("folder", cases.folders("segflow"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    target = shapes(segflow.SYSTEM, MODEL)
    variables = to_variables(case.parameters(), segflow.NAMES, target)
    inputs = inputs_of(case)
    sizes = case.manifest["sizes"]
    assert segflow.flow_grid(sizes["input"]) == tuple(sizes["flow_grid"])
    _, ours = jax.device_get(jax.jit(everything)(variables, inputs))
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (variables, inputs))
        grads, _ = jax.jit(jax.grad(everything, has_aux=True))(*exact)
        ours |= gradients(jax.device_get(grads), case)
    case.compare(stored(case, ours))
