"""F2Net at full depth answers as the released network does, at every tap."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import sigmoid

from jaxvos import motion_clue
from jaxvos.layers.centres import bell, focal, peaks
from jaxvos.losses import balanced_bce, balanced_bce_and_l1
from jaxvos.losses import l1 as mean_l1
from jaxvos.systems import f2net
from jaxvos.torch_import import to_variables

from . import cases

MODEL = f2net.F2Net()
# The spec's history for `motion.*`.
TRACK = motion_clue.Track(((40, 60), (46, 57), (55, 58), (61, 50), (70, 49), (76, 44), (85, 40)))


def made(case: cases.Case) -> dict[str, jax.Array]:
    """The case's inputs, NHWC; heat maps and centre from the numbers that the manifest states."""
    inputs = {}
    for entry in case.manifest["inputs"]:
        name, shape, how = (entry[key] for key in ("name", "shape", "how"))
        stated = re.search(r"\((\d+(?:, \d+)+)\)", how)
        numbers = [int(n) for n in stated[1].split(", ")] if stated else []
        if len(shape) == 2:
            inputs[name] = jnp.asarray([numbers], jnp.float32)
        elif "gaussian" in how:
            x, y, radius = (jnp.asarray([n]) for n in numbers)
            inputs[name] = bell(x, y, radius, tuple(shape[2:]))
        else:
            value = cases.image(case.manifest["case"], name, shape)
            value = value > 0.5 if "draw-based" in how else value
            inputs[name] = cases.nhwc(value.astype(np.float32))
    return inputs


def taps(variables: dict, inputs: dict) -> dict[str, jax.Array]:
    """Every stored output, channels first, before the crops."""
    chw = cases.chw
    frames = jnp.stack([inputs["reference"], inputs["current"], inputs["current"]], axis=1)
    outputs, inside = MODEL.apply(
        variables,
        frames,
        inputs["prev_heat"],
        capture_intermediates=lambda _, method: method in ("__call__", "look"),
        mutable=["intermediates"],
    )
    inside = inside["intermediates"]
    resnet, heat, weigh = inside["encoder"]["resnet"], inside["heat"], inside["weigh"]
    (reference, _), (current, _) = inside["encoder"]["look"]
    rows, own = reference.reshape(-1, reference.shape[-1]), current.reshape(-1, current.shape[-1])
    prior = f2net.gauss_prior(inputs["ct"], frames.shape[2:4], current.shape[1:3])
    guided = MODEL.apply(variables, reference, current, prior, method="match")
    return {
        "maxpool": chw(resnet["pooled"][1]),
        **{f"layer{i}": chw(resnet[f"layer{i}_out"][1]) for i in (1, 2, 3, 4)},
        "feat_reference": chw(reference),
        "feat_current": chw(current),
        **{f"up{i}": chw(inside["decoder"][f"up{i}"]["__call__"][0]) for i in (1, 2, 3, 4)},
        "cross": chw(inside["decoder"]["__call__"][0]),
        "motion_w_logits": chw(heat["motion_w"]["__call__"][0]),
        "motion_b_logits": chw(heat["motion_b"]["__call__"][0]),
        "heat_appearance": chw(heat["classifier"]["__call__"][0]),
        "heat_logits": chw(outputs["heat"]),
        "fusion_sum": chw(weigh["total"][0]),
        "fusion_weights": weigh["channel_weights"][0][0],
        "fused": chw(weigh["__call__"][0]),
        "logits": chw(inside["head"]["__call__"][0]),
        "pred": chw(sigmoid(outputs["current"])),
        "temp": chw(sigmoid(outputs["encoder"])),
        "p0": f2net.affinity(rows, own),
        "feats0": chw(f2net.diffuse(rows, own).reshape(current.shape)),
        "peaks": peaks(sigmoid(outputs["heat"]), 5)[0],
        "prior.logits": chw(guided),
        "prior.gauss": chw(prior),
    }


def losses(params: dict, statistics: dict, inputs: dict) -> tuple[jax.Array, dict]:
    """The video loss, and every stored loss."""
    variables = {"params": params, "batch_stats": statistics}
    frames = jnp.stack([inputs["reference"], inputs["current"], inputs["current"]], axis=1)
    outputs = MODEL.apply(variables, frames, inputs["prev_heat"])
    mask = inputs["current_gt"]
    # The case's heat map is a free bell, not that of its mask, so the parts are put together here.
    centre = focal(outputs["heat"], inputs["query_heat"])
    bce, l1 = (f(outputs["current"], mask) for f in (balanced_bce, mean_l1))
    alone = balanced_bce_and_l1(outputs["encoder"], mask)
    video = bce + 0.8 * l1 + centre
    named = {"focal": centre, "bce": bce, "l1": l1, "video": video, "image": 0.1 * alone + centre}
    return video, {f"loss.{k}": v.reshape(1) for k, v in named.items()}


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients, in the published layout and with the published names."""
    conv = lambda kernel: jnp.transpose(kernel, (3, 2, 0, 1))  # noqa: E731
    heat, weigh, head = grads["heat"], grads["weigh"], grads["head"]
    named = {
        "upsample.up4.bn2.bias": grads["decoder"]["up4"]["up_bn"]["bias"],
        "upsample.up4.bn5.weight": grads["decoder"]["cross_bn"]["scale"],
        "fc.0.bias": heat["conv"]["bias"],
        "fc.2.weight": conv(heat["classifier"]["kernel"]),
        "motion_conv_w.weight": conv(heat["motion_w"]["kernel"]),
        "motion_conv_b.weight": conv(heat["motion_b"]["kernel"]),
        "channel_attention_conv1.weight": conv(weigh["channel_conv1"]["kernel"]),
        "channel_attention_conv2.weight": conv(weigh["channel_conv2"]["kernel"])[:16],
        "channel_attention_bn.bias": weigh["channel_bn"]["bias"],
        "cls.0.bias": head["conv"]["bias"],
        "cls.1.weight": head["bn"]["scale"],
        "cls.3.weight": conv(head["classifier"]["kernel"]),
    }
    return {f"grad.{k}": v for k, v in named.items()}


@pytest.mark.parametrize("folder", cases.folders("f2net"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    inputs = made(case)
    clip = jnp.stack([inputs["reference"]] * 3, axis=1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), clip, inputs["prev_heat"])
    variables = to_variables(case.parameters(), f2net.NAMES, shapes)

    @jax.jit
    def everything(variables: dict, inputs: dict) -> dict[str, jax.Array]:
        grads, named = jax.grad(losses, has_aux=True)(
            variables["params"], variables["batch_stats"], inputs
        )
        return taps(variables, inputs) | named | gradients(grads)

    ours = everything(variables, inputs) | {
        "motion.centre": motion_clue.expected_centre(TRACK),
        "motion.centre_occ2": motion_clue.expected_centre(TRACK._replace(hidden=2)),
    }
    case.compare(cases.cropped(ours, list(case.outputs)))
