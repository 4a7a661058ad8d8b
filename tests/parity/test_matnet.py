"""MATNet at full depth answers as the released network does, at every tap."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import sigmoid

from jaxvos.system import shapes
from jaxvos.systems.matnet import NAMES, SYSTEM, MATNet, total_loss, weighted_losses
from jaxvos.torch_import import to_variables

from . import cases

MODEL = MATNet()


def nchw(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def outputs_of(variables: dict, inputs: Mapping, size: tuple[int, int], **taps: bool) -> tuple:
    """The released outputs are of one size, that of the targets, whatever the pictures'."""

    def whole(module: MATNet, frames: jax.Array, flow: jax.Array) -> tuple:
        gated = module.encode(frames, flow)
        return gated, module.decoder(gated, size, False)

    pictures = inputs["image"], inputs["flow"]
    (gated, outputs), inside = MODEL.apply(
        variables, *pictures, method=whole, mutable=["intermediates"], **taps
    )
    return gated, outputs, inside.get("intermediates", {})


def attention(k: int, inside: Mapping) -> dict[str, jax.Array]:
    """Taps of one stage's transition."""
    found, own = inside["__call__"][0]
    made = {f"coa_res{k}_Zb": nchw(found)[:, :8], f"coa_res{k}_Qb": nchw(own)[:, :8]}
    for cascade in (1, 5):
        affinity = inside["affinity"][cascade - 1]
        made[f"coa_res{k}_tanh_cascade{cascade}"] = affinity[:, :24, :24]
        for stream, shares in zip("ab", inside["shares"][cascade - 1], strict=True):
            flat = shares.reshape(len(shares), -1)
            made[f"coa_res{k}_softmax_{stream}_cascade{cascade}"] = flat
    return made


def taps(variables: dict, inputs: Mapping, size: tuple[int, int]) -> dict[str, jax.Array]:
    """Every stored output but losses and gradients."""
    gated, outputs, inside = outputs_of(variables, inputs, size, capture_intermediates=True)
    called = lambda tree: nchw(tree["__call__"][0])  # noqa: E731
    decoder = inside["decoder"]
    made = {}
    for k in (2, 3, 4, 5):
        first = 4 if k == 2 else 8
        for stream, name in ((1, "image"), (2, "motion")):
            made[f"res{k}_{stream}"] = called(inside[name][f"layer{k - 1}"])[:, :first]
        if k > 2:
            made |= attention(k, inside[f"transition{k}"])
        if k < 5:
            made[f"RF{k}"] = called(decoder[f"RF{k}"])[:, :first]
        both = nchw(gated[k - 2])
        made[f"gated_res{k}"] = both[:, :: both.shape[1] // 8]
        made[f"spatial_att{k}"] = called(inside[f"gate{k}"]["spatial_bn"])
        made[f"bdry_logit{k}"] = called(decoder[f"bdry{k}"])
        made[f"out_edge{k}"] = sigmoid(nchw(outputs["edges"])[:, k - 1 : k, ::8, ::8])
    edges = nchw(outputs["edges"])
    return made | {
        "concat_logit": edges[:, :1, ::8, ::8],
        "GC": called(decoder["GC"])[:, :8],
        "RF4_pdc": called(decoder["RF4"]["pdc"])[:, ::16],
        "pred2_logit": called(decoder["pred2"]),
        "out_mask": sigmoid(nchw(outputs["mask"])[..., ::4, ::4]),
        "out_edge": sigmoid(edges[:, :1, ::4, ::4]),
    }


def losses(params: dict, statistics: dict, inputs: Mapping, size: tuple) -> tuple:
    """The whole loss, and the seven numbers that are stored."""
    variables = {"params": params, "batch_stats": statistics}
    _, outputs, _ = outputs_of(variables, inputs, size)
    labels = inputs["mask"], inputs["bdry"], inputs["negative_pixels"]
    parts = weighted_losses(outputs, *labels)
    total = total_loss(parts)
    return total, jnp.append(parts, total)


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients, in the published layout and with the published names."""
    conv = lambda layer: jnp.transpose(layer["kernel"], (3, 2, 0, 1))  # noqa: E731
    decoder = grads["decoder"]
    named = {
        "encoder.res5_1.2.conv3.weight": conv(grads["image"]["layer4"]["block2"]["conv3"])[:8, :64],
        "encoder.res5_2.2.bn3.weight": grads["motion"]["layer4"]["block2"]["bn3"]["scale"],
        "encoder.coa_res5.projb.weight": conv(grads["transition5"]["projb"])[:8, :64],
        "encoder.coa_res5.proj2.weight": conv(grads["transition5"]["proj2"]),
        "encoder.gated_res5.excitation_1.0.weight": (
            grads["gate5"]["excitation_1"]["kernel"].T[:16]
        ),
        "encoder.gated_res5.global_attention.0.weight": (
            grads["gate5"]["global_attention"]["kernel"].T
        ),
        "encoder.gated_res2.spatial.conv.weight": conv(grads["gate2"]["spatial_conv"]),
        "decoder.concat.weight": conv(decoder["concat"]),
        "decoder.bdry4.conv1.bias": decoder["bdry4"]["conv1"]["bias"],
        "decoder.pred2.weight": conv(decoder["pred2"]),
        "decoder.RF3.pdc.block1.conv.bias": decoder["RF3"]["pdc"]["block1"]["bias"],
        "decoder.GC.conv_l1.bias": decoder["GC"]["conv_l1"]["bias"],
    }
    return {f"grad:{k}": v for k, v in named.items()}


def inputs_of(case: cases.Case) -> dict[str, jax.Array]:
    """The inputs, NHWC; the three labels as "how" says."""
    make = {
        "mask": lambda x: x > 0.3,
        "bdry": lambda x: np.abs(x) < 0.1,
        "negative_pixels": lambda x: np.clip(x, 0, 1),
    }
    inputs = {}
    for entry in case.manifest["inputs"]:
        drawn = cases.image(case.manifest["case"], entry["name"], entry["shape"])
        drawn = make.get(entry["name"], lambda x: x)(drawn)
        inputs[entry["name"]] = cases.nhwc(np.asarray(drawn, np.float32))
    return inputs


@pytest.mark.parametrize("folder", cases.folders("matnet"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    inputs = inputs_of(case)
    size = inputs["mask"].shape[1:3]
    variables = to_variables(case.parameters(), NAMES, shapes(SYSTEM, MODEL))

    @jax.jit
    def everything(variables: dict, inputs: dict) -> dict[str, jax.Array]:
        grads, stored = jax.grad(losses, has_aux=True)(
            variables["params"], variables["batch_stats"], inputs, size
        )
        return taps(variables, inputs, size) | {"loss": stored} | gradients(grads)

    case.compare(everything(variables, inputs))
