"""PDB-ConvLSTM at full depth answers as the released network does, at every tap."""

import jax
import jax.numpy as jnp
import pytest
from flax.linen import sigmoid

from jaxvos.layers.recurrent import ConvLSTM
from jaxvos.layers.resize import bilinear
from jaxvos.systems.pdb_convlstm import (
    NAMES,
    PDBConvLSTM,
    cross_entropy,
    l1,
    loss,
)
from jaxvos.torch_import import to_variables

from . import cases
from .clips import clip, oihw, stored, tchw, tnchw


def taps(params: dict, outputs: dict, inside: dict) -> dict[str, jax.Array]:
    """Every stored map, whole, in the published layout."""
    resnet, pdc = inside["resnet"], inside["pdc"]
    x, logits = inside["features"][0], inside["logits"][0]
    cell = ConvLSTM(x.shape[-1], peephole="shared")
    _, cells = cell.apply({"params": params["forward1"]}, x, cells=True)
    picture = outputs["saliency"].shape[2:4]
    return {
        "pool1_3x3_s2": tchw(resnet["pooled"][0]),
        "conv2_3": tchw(resnet["stage2_out"][0]),
        "conv3_4": tchw(resnet["stage3_out"][0]),
        "conv4_6": tchw(resnet["stage4_out"][0]),
        "conv5_3": tchw(resnet["stage5_out"][0]),
        **{f"conv5_3_d{d}_conv": tchw(pdc[f"d{d}_out"][0]) for d in (2, 4, 8, 16)},
        "conv5_4": tchw(x),
        "encode1": tnchw(inside["forward1_out"][0]),
        "encode1_c": tnchw(cells[:, -1:]),
        "encode2": tnchw(inside["forward2_out"][0]),
        "encode3_": tnchw(inside["backward1_out"][0]),
        "encode4_": tnchw(inside["backward2_out"][0]),
        "concat_sum": tnchw(inside["joined"][0]),
        "conv7": tchw(logits),
        "conv7_interp": tchw(bilinear(logits, picture, align_corners=True)),
        "conv7_sm": tchw(sigmoid(outputs["saliency"])),
    }


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients, in the published layout and with the published names."""
    named = {
        "conv7.weight": oihw(grads["conv7"]["kernel"]),
        "conv7.bias": grads["conv7"]["bias"],
        "encode1.bias": grads["forward1"]["bias"],
        "encode1.peep_i": grads["forward1"]["peephole_i"],
        "encode1.peep_o": grads["forward1"]["peephole_o"],
        "encode4.peep_f": grads["backward2"]["peephole_f"],
        "encode3.h_weight": oihw(grads["backward1"]["h_conv"]["kernel"])[:8],
        "conv5_4/bn_.slope": grads["pdc"]["fuse"]["bn"]["scale"],
    }
    return {f"grad/{k}": v for k, v in named.items()}


@pytest.mark.parametrize("folder", cases.folders("pdb_convlstm"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    shapes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    seed = case.manifest["case"]
    frames = clip(cases.image(seed, "data", shapes["data"]))
    masks = clip(cases.image(seed, "gt", shapes["gt"]) > 0.3)
    model = PDBConvLSTM(size=frames.shape[2:4])
    target = jax.eval_shape(model.init, jax.random.key(0), frames)
    variables = to_variables(case.parameters(), NAMES, target)

    @jax.jit
    def everything(variables: dict, frames: jax.Array, masks: jax.Array) -> dict:
        def total(params: dict) -> tuple:
            own = {**variables, "params": params}
            outputs, inside = model.apply(own, frames, mutable=["intermediates"])
            return loss(outputs, {"masks": masks})[0], (outputs, inside["intermediates"])

        grads, (outputs, inside) = jax.grad(total, has_aux=True)(variables["params"])
        logits = outputs["saliency"]
        losses = {
            "loss_ce": cross_entropy(logits, masks),
            "loss_mae": l1(logits, masks),
            "loss": loss(outputs, {"masks": masks})[0],
        }
        return taps(variables["params"], outputs, inside) | losses | gradients(grads)

    ours = everything(variables, frames, masks)
    small = {k: v for k, v in ours.items() if k.startswith(("grad/", "loss"))}
    case.compare(stored(case, ours) | {k: jnp.asarray(v) for k, v in small.items()})
