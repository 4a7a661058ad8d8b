"""COSNet at full depth answers as the released network does, at every tap."""

import jax
import jax.numpy as jnp
import pytest
from flax.linen import sigmoid

from jaxvos.layers.resize import bilinear
from jaxvos.losses import balanced_bce, l1
from jaxvos.systems.cosnet import NAMES, COSNet, loss
from jaxvos.torch_import import to_variables

from . import cases

MODEL = COSNet()
GROUP = COSNet(group=True)


def taps(variables: dict, inputs: dict, protocol_size: tuple[int, int]) -> dict[str, jax.Array]:
    """Every stored output, channels first, before the crops."""
    target, *searches = (inputs[k] for k in ("target", "search_0", "search_1", "search_2"))
    both = lambda module, x: module.encode(x)  # noqa: E731
    (a, _), inside = MODEL.apply(variables, target, method=both, mutable=["intermediates"])
    inside = inside["intermediates"]["encoder"]["resnet"]
    encoded = [MODEL.apply(variables, s, method="encode") for s in searches]
    b, encoder_logits = encoded[0]
    references = jnp.stack([e[0] for e in encoded], axis=1)

    def attended(module: COSNet, a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
        flat = lambda m: m.reshape(-1, m.shape[-1])  # noqa: E731
        from_b, from_a = module.attend(a, b)
        return {
            "affinity": flat(module.linear_e(a)) @ flat(b).T,
            "gate_logits_target": chw(module.gate(from_b)),
            "gate_logits_search": chw(module.gate(from_a)),
            "att_target_gated": chw(module.gated(from_b)),
            "att_search_gated": chw(module.gated(from_a)),
            "logits_target": chw(module.head1(module.gated(from_b), a, False)),
            "logits_search": chw(module.head2(module.gated(from_a), b, False)),
        }

    def grouped(module: COSNet, a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
        summary = module.attend_group(a, b)
        return {
            "att": chw(summary),
            "gate_logits": chw(module.gate(summary)),
            "logits": chw(module.compare_group(a, b)),
        }

    chw = cases.chw
    outputs = MODEL.apply(variables, target, searches[0])
    mean = jnp.mean(
        jnp.stack([sigmoid(MODEL.apply(variables, target, s)["target"]) for s in searches]), axis=0
    )
    group2 = GROUP.apply(variables, target, jnp.stack(searches[:2], axis=1))
    two = GROUP.apply(variables, a, references[:, :2], method=grouped)
    three = GROUP.apply(variables, a, references, method=grouped)
    return {
        "stem_conv1": chw(inside["conv1_out"][0])[:, ::2, ::2],
        "maxpool": chw(inside["pooled"][0]),
        **{f"layer{i}": chw(inside[f"layer{i}_out"][0]) for i in (1, 2, 3, 4)},
        "feat_target": chw(a),
        "feat_search": chw(b),
        "feat_target_chanmean": a.mean(axis=(0, 1, 2)),
        "enc_logits_search": chw(encoder_logits),
        **MODEL.apply(variables, a, b, method=attended),
        "x1": chw(sigmoid(outputs["target"])),
        "x2": chw(sigmoid(outputs["reference"])),
        "temp": chw(sigmoid(outputs["encoder"])),
        "protocol.avg3_resized": bilinear(mean, protocol_size)[0, ..., 0],
        **{f"group2.{k}": v for k, v in two.items()},
        "group2.x1": chw(sigmoid(group2["target"])),
        **{f"group3.{k}": v for k, v in three.items()},
        "group.temp": chw(sigmoid(group2["encoder"])),
    }


def losses(params: dict, statistics: dict, inputs: dict) -> tuple[jax.Array, dict]:
    """The video loss, and every stored loss."""
    variables = {"params": params, "batch_stats": statistics}
    outputs = MODEL.apply(variables, inputs["target"], inputs["search_0"])
    masks = {"target_mask": inputs["target_gt"], "reference_mask": inputs["search_gt"]}
    video, _ = loss(outputs, masks)
    image, _ = loss(outputs, {"mask": inputs["search_gt"]})
    named = {
        "bce1": balanced_bce(outputs["target"], inputs["target_gt"]),
        "l1_1": l1(outputs["target"], inputs["target_gt"]),
        "bce2": balanced_bce(outputs["reference"], inputs["search_gt"]),
        "l1_2": l1(outputs["reference"], inputs["search_gt"]),
        "video": video,
        "image": image,
    }
    return video, {f"loss.{k}": v.reshape(1) for k, v in named.items()}


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients, in the published layout and with the published names."""
    conv = lambda kernel: jnp.transpose(kernel, (3, 2, 0, 1))  # noqa: E731
    named = {
        "linear_e.weight": grads["linear_e"]["kernel"].T[:32],
        "gate.weight": conv(grads["gate"]["kernel"]),
        "main_classifier1.weight": conv(grads["head1"]["classifier"]["kernel"]),
        "main_classifier2.bias": grads["head2"]["classifier"]["bias"],
        "bn1.weight": grads["head1"]["bn"]["scale"],
        "encoder.layer5.prelu.weight": grads["encoder"]["layer5"]["prelu"][
            "negative_slope"
        ].reshape(1),
    }
    return {f"grad.{k}": v for k, v in named.items()}


@pytest.mark.parametrize("folder", cases.folders("cosnet"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    inputs = {k: cases.nhwc(v) for k, v in case.inputs().items()}
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), inputs["target"], inputs["search_0"])
    variables = to_variables(case.parameters(), NAMES, shapes)

    @jax.jit
    def everything(variables: dict, inputs: dict) -> dict[str, jax.Array]:
        grads, named = jax.grad(losses, has_aux=True)(
            variables["params"], variables["batch_stats"], inputs
        )
        size = tuple(case.manifest["protocol_size_hw"])
        return taps(variables, inputs, size) | named | gradients(grads)

    ours = everything(variables, inputs)
    case.compare(cases.cropped(ours, list(case.outputs)))
