"""AGS at full depth answers as the released network does, at every tap, and so do its losses."""

import jax
import numpy as np
import pytest
from flax.linen import sigmoid

from jaxvos.layers.recurrent import ConvLSTM
from jaxvos.systems import ags
from jaxvos.torch_import import to_variables

from . import cases
from .clips import clip, oihw, stored, tchw, tnchw


def taps(params: dict, outputs: dict, inside: dict) -> dict[str, jax.Array]:
    """Every stored map, whole, in the published layout."""
    resnet, dvap = inside["resnet"], inside["dvap"]
    one, two, three = (inside[f"aspp{i}"] for i in (1, 2, 3))
    seen = dvap["conv3_out"][0]
    seen = seen.reshape(1, -1, *seen.shape[1:])
    cell = ConvLSTM(seen.shape[-1], dilation=2, peephole="shared")
    _, cells = cell.apply({"params": params["dvap"]["lstm"]}, seen, cells=True)
    maps = {
        "pool1_3x3_s2": resnet["pooled"],
        "conv2_3": resnet["stage2_out"],
        "conv3_4": resnet["stage3_out"],
        "conv4_23": resnet["stage4_out"],
        "conv5_3": resnet["stage5_out"],
        "conv5_3_d24_conv": one["d24_out"],
        "conv5_3_256_conv": one["point_out"],
        "conv5_3_pool": one["means"],
        "conv5_3_pool_conv_interp": one["pooled_out"],
        "conv5_4": inside["aspp1_out"],
        "conv5_4_pool_conv_interp": two["pooled_out"],
        "conv5_5": inside["aspp2_out"],
        "conv5_8_pool_conv_interp": three["pooled_out"],
        "conv5_8": inside["aspp3_out"],
        "conv5_5_att": dvap["conv1_out"],
        "conv5_7_att": dvap["conv3_out"],
        "conv7": inside["attention_logits"],
        "conv7_interp60_sm": inside["gate"],
        "conv5_8prod7sum8": inside["gated"],
        "conv6": inside["logits"],
    }
    return {
        **{name: tchw(value[0]) for name, value in maps.items()},
        "encode1": tnchw(dvap["states"][0]),
        "encode1_c": tnchw(cells[:, -1:]),
        "conv7_sm": tchw(sigmoid(outputs["attention"])),
        "conv6_sm": tchw(sigmoid(outputs["saliency"])),
    }


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients, in the published layout and with the published names."""
    dvap = grads["dvap"]
    named = {
        "conv7.weight": oihw(dvap["conv7"]["kernel"]),
        "conv7.bias": dvap["conv7"]["bias"],
        "encode1.bias": dvap["lstm"]["bias"],
        "encode1.peep_i": dvap["lstm"]["peephole_i"],
        "conv6_.weight": oihw(grads["conv6"]["kernel"]),
        "conv5_7_att/bn.slope": dvap["conv3"]["bn"]["scale"],
        "conv5_8/bn.slope": grads["aspp3"]["fuse"]["bn"]["scale"],
    }
    return {f"grad/{k}": v for k, v in named.items()}


@pytest.mark.parametrize("folder", cases.folders("ags"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    shapes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    seed = case.manifest["case"]
    frames = clip(cases.image(seed, "data", shapes["data"]))
    batch = {
        "fixation_map": clip(1 / (1 + np.exp(-2 * cases.image(seed, "att", shapes["att"])))),
        "fixations": clip(cases.draw(seed, "fix", shapes["fix"]) > 2.0),
        "masks": clip(cases.image(seed, "mask", shapes["mask"]) > 0.3),
    }
    model = ags.AGS(size=frames.shape[2:4])
    target = jax.eval_shape(model.init, jax.random.key(0), frames)
    variables = to_variables(case.parameters(), ags.NAMES, target)

    @jax.jit
    def everything(variables: dict, frames: jax.Array, batch: dict) -> dict:
        def total(params: dict) -> tuple:
            own = {**variables, "params": params}
            outputs, inside = model.apply(own, frames, mutable=["intermediates"])
            looks = ags.attention_ce(outputs["attention"], batch["fixation_map"]).mean()
            segments = ags.cross_entropy(outputs["saliency"], batch["masks"])
            return looks + segments, (outputs, inside["intermediates"])

        grads, (outputs, inside) = jax.grad(total, has_aux=True)(variables["params"])
        terms = ags.attention_terms(outputs["attention"], batch)
        losses = {f"loss/att_{name}": terms[name] for name in ("ce", "kl", "cc", "nss", "sim")}
        losses["loss/seg_ce"] = ags.cross_entropy(outputs["saliency"], batch["masks"])
        return taps(variables["params"], outputs, inside) | losses | gradients(grads)

    ours = everything(variables, frames, batch)
    small = {k: v for k, v in ours.items() if k.startswith(("grad/", "loss"))}
    case.compare(stored(case, ours) | small)
