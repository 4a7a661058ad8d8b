"""VSOD-FCN at full depth answers as the released networks do; pairs are made as the case has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import sigmoid

from data_pipelines.synthesis import blocks, pulled, smoothed
from jaxvos.inference import fit
from jaxvos.systems import vsod_fcn
from jaxvos.torch_import import to_variables

from . import cases

MODEL = vsod_fcn.VSODFCN()
# Stored with the outputs, though they are inputs.
STORED_INPUTS = ("gt", "rgb8", "post_pred", "still_mask")


def inputs_of(case: cases.Case) -> dict[str, jax.Array]:
    """The networks' inputs, NHWC; the prior is in 0..255."""
    shapes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    draw = lambda name: cases.image(case.manifest["case"], name, shapes[name])  # noqa: E731
    made = {
        "frame0": 50 * draw("frame0"),
        "frame1": 50 * draw("frame1"),
        "prior": 127.5 * (1 + np.tanh(draw("prior"))),
        "gt": case.outputs["gt"],
    }
    return {name: cases.nhwc(value.astype(np.float32)) for name, value in made.items()}


def taps(name: str, inside: dict, logits: vsod_fcn.Logits) -> dict[str, jax.Array]:
    """Everything stored of one network, before the crops."""
    out = lambda module: jnp.moveaxis(module["__call__"][0], -1, 1)  # noqa: E731
    found = {}
    for b, count in enumerate(vsod_fcn.CONVOLUTIONS, 1):
        block = jax.nn.relu(out(inside["vgg"][f"block{b}_conv{count}"]))
        found[f"block{b}.crop"] = block
        found[f"block{b}.stats"] = jnp.stack([block.mean(), block.std(), block.max()])
    for number in (4, 3):
        found[f"a{number}.crop"] = sigmoid(out(inside[f"conv{number}_out"]))
    for number, answer in zip((3, 4, 5), logits, strict=True):
        found[f"l{number}"] = jnp.moveaxis(answer, -1, 1)
        found[f"s{number}"] = sigmoid(found[f"l{number}"])
    return {f"{name}.{key}": value for key, value in found.items()}


def everything(params: dict, inputs: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss, and every stored output of both networks."""
    run = lambda method, *args: MODEL.apply(  # noqa: E731
        {"params": params}, *args, method=method, capture_intermediates=True, mutable=True
    )
    static, inside = run("look", inputs["frame0"])
    named = taps("static", inside["intermediates"]["static"], static)
    dynamic, inside = run("compare", inputs["frame0"], inputs["frame1"], inputs["prior"])
    named |= taps("dynamic", inside["intermediates"]["dynamic"], dynamic)
    loss = vsod_fcn.balanced(dynamic[0], inputs["gt"])
    return loss, named | {"loss": loss}


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients, in the published layout and with the published names."""
    net = grads["dynamic"]
    named = {
        "sal_conv3.weight": jnp.transpose(net["sal_conv3"]["kernel"], (3, 2, 0, 1)),
        "conv_3_out.bias": net["conv3_out"]["bias"],
        "block5_conv3.bias": net["vgg"]["block5_conv3"]["bias"],
    }
    return {f"grad.dynamic.{k}": v for k, v in named.items()}


def pairs(case: cases.Case) -> dict[str, np.ndarray]:
    """The case's synthesis: one field for object and ground, smoothed across the mask's edge."""
    seed, mask = case.manifest["case"], case.outputs["still_mask"]
    (shape,) = (e["shape"] for e in case.manifest["inputs"] if e["name"] == "still")
    regions = blocks(mask.shape, 8)
    count = int(regions.max()) + 1
    vectors = [
        scale * cases.draw(seed, f"flow_{which}", [2])
        + 0.3 * cases.draw(seed, f"flow_{which}_regions", [count, 2])
        for which, scale in (("fg", 4), ("bg", 2))
    ]
    front, ground = (v[regions] for v in vectors)
    field = smoothed(np.where(mask[..., None] > 0.5, front, ground), 2.0)
    still = np.moveaxis(cases.image(seed, "still", shape)[0], 0, -1)
    return {
        "synth_flow": np.moveaxis(field, -1, 0),
        "synth_frame2": np.moveaxis(pulled(still, field), -1, 0),
        "synth_mask2_soft": pulled(np.asarray(mask, np.float64), field),
    }


def files(case: cases.Case) -> dict[str, np.ndarray]:
    """What goes into the networks of a picture, and what is saved of an answer."""
    rgb, size = case.outputs["rgb8"], case.outputs["pre_net"].shape[:2]
    saved = vsod_fcn.saved(case.outputs["post_pred"], case.outputs["post_png"].shape)
    # In whole levels both: the difference of two bytes would wrap around.
    return {"pre_net": vsod_fcn.prepare(fit(rgb, size)), "post_png": saved.astype(np.float32)}


@pytest.mark.parametrize("folder", cases.folders("vsod_fcn"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    inputs = inputs_of(case)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 2, 16, 16, 3)))
    params = to_variables(case.parameters(), vsod_fcn.NAMES, shapes)["params"]
    run = jax.jit(jax.grad(everything, has_aux=True))
    grads, ours = run(params, inputs)
    ours |= gradients(grads) | pairs(case) | files(case)
    expected = {k: v for k, v in case.outputs.items() if k not in STORED_INPUTS}
    cropped = {
        k: np.asarray(v)[tuple(slice(n) for n in expected[k].shape)] if "crop" in k else v
        for k, v in ours.items()
    }
    case._replace(outputs=expected).compare(cropped)
