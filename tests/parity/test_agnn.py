"""AGNN at full depth answers as the released network does, at every tap."""

import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import sigmoid

from jaxvos.losses import balanced_bce, l1
from jaxvos.system import shapes
from jaxvos.systems.agnn import AGNN, NAMES, SYSTEM, enlarged, loss
from jaxvos.torch_import import to_variables

from . import cases

MODEL = AGNN()
SLOTS = ("target", "search_0", "search_1")


def cut(whole: np.ndarray, name: str) -> np.ndarray:
    """What the stored name says: "[:8,:8]" or "[256:264]" of the leading axes."""
    ends = re.findall(r"(\d*):(\d+)", name)
    return np.asarray(whole)[tuple(slice(int(start or 0), int(end)) for start, end in ends)]


def taps(variables: dict, frames: jax.Array) -> dict[str, jax.Array]:
    """Stored outputs of the network, channels first, before the crops."""
    target = frames[:, 0]
    (state, _), inside = MODEL.apply(variables, target, method="encode", mutable=["intermediates"])
    inside = inside["intermediates"]
    nodes = jnp.stack(
        [MODEL.apply(variables, f, method="encode")[0] for f in frames[0][:, None]], 1
    )
    logits, graph = MODEL.apply(variables, nodes, method="decide", mutable=["intermediates"])
    graph = graph["intermediates"]
    first = {name: values[0] for name, values in graph["graph"].items() if name != "gru"}
    chw, resnet = cases.chw, inside["encoder"]["resnet"]
    outputs = {k: sigmoid(v) for k, v in MODEL.apply(variables, frames).items()}
    places = nodes[0].reshape(3, -1, nodes.shape[-1])
    return {
        "stem_conv1": chw(resnet["conv1_out"][0])[:, ::2, ::2],
        "maxpool": chw(resnet["pooled"][0]),
        **{f"layer{i}": chw(resnet[f"layer{i}_out"][0]) for i in (1, 2, 3, 4)},
        "aspp_target": chw(inside["intra"]["pooled"][0]),
        "intra_target": chw(inside["intra"]["attended"][0]),
        **{f"node0_{slot}": chw(nodes[:, i]) for i, slot in enumerate(SLOTS)},
        "node0_target_chanmean": state.mean(axis=(0, 1, 2)),
        "affinity_r1_target_search_0": places[0]
        @ variables["params"]["graph"]["linear_e"]["kernel"]
        @ places[1].T,
        "gate_logits_r1": first["gate_logits"][0].reshape(6, *nodes.shape[2:4]),
        "gated_messages_r1_target": chw(first["joined"][:, 0]),
        "fused_message_r1_target": chw(first["fused"][:, 0]),
        **{f"state_r{k}_target": chw(graph[f"round{k}"][0][:, 0]) for k in range(1, 6)},
        **{f"state_r5_{slot}": chw(graph["round5"][0][:, i]) for i, slot in enumerate(SLOTS)},
        "logits": logits[0, ..., 0],
        **{f"x{i + 1}": chw(outputs["frames"][:, i]) for i in range(3)},
        "temp": chw(outputs["encoder"][:, 1]),
        "temp1": chw(outputs["encoder"][:, 2]),
    }


def losses(params: dict, statistics: dict, frames: jax.Array, masks: jax.Array) -> tuple:
    """The video loss, and every stored loss."""
    outputs = MODEL.apply({"params": params, "batch_stats": statistics}, frames)
    video, _ = loss(outputs, {"masks": masks})
    images = [
        loss({"encoder": outputs["encoder"][:, i : i + 1]}, {"mask": masks[:, i]})[0]
        for i in (1, 2)
    ]
    named = {
        "bce_target": balanced_bce(outputs["frames"][:, 0], masks[:, 0]),
        "l1_target": l1(outputs["frames"][:, 0], masks[:, 0]),
        "video": video,
        "image": sum(images),
    }
    return video, {f"loss.{k}": v.reshape(1) for k, v in named.items()}


def gradients(grads: dict) -> dict[str, jax.Array]:
    """The stored gradients, in the published layout and with the published names."""
    conv = lambda kernel: jnp.transpose(kernel, (3, 2, 0, 1))  # noqa: E731
    graph, sa = grads["graph"], grads["intra"]["sa"]
    named = {
        "linear_e.weight": graph["linear_e"]["kernel"].T[:32],
        "gate.weight": conv(graph["gate"]["kernel"]),
        **{
            f"ConvGRU.{name}.bias": graph["gru"][name]["bias"]
            for name in ("update_gate", "out_gate", "reset_gate")
        },
        "conv_fusion.bias": graph["conv_fusion"]["bias"],
        "bn1.bias": grads["head"]["bn"]["bias"],
        "main_classifier1.weight": conv(grads["head"]["classifier"]["kernel"]),
        "encoder.layer5.sa.gamma": sa["gamma"],
        "encoder.layer5.sa.query_conv.bias": sa["query_conv"]["bias"],
    }
    return {f"grad.{k}": v for k, v in named.items()}


def at_scale(variables: dict, frames: jax.Array, scale: float) -> np.ndarray:
    """x1 [h, w] of frames that OpenCV resized."""
    size = tuple(int(side * scale) for side in frames.shape[2:4])
    small = np.stack([cv2.resize(np.asarray(frame), size[::-1]) for frame in frames[0]])
    answer = jax.jit(lambda v, f: sigmoid(MODEL.apply(v, f)["frames"]))(variables, small[None])
    return np.asarray(answer)[0, 0, ..., 0]


@pytest.mark.parametrize("folder", cases.folders("agnn"), ids=lambda f: f and f.name)
def test_every_output_loss_and_gradient_is_the_released_networks(folder):
    case = cases.load(folder)
    inputs = {k: cases.nhwc(v) for k, v in case.inputs().items()}
    frames = jnp.stack([inputs[slot] for slot in SLOTS], axis=1)
    masks = jnp.stack([inputs[f"{slot}_gt"] for slot in SLOTS], axis=1)
    variables = to_variables(case.parameters(), NAMES, shapes(SYSTEM, MODEL))

    @jax.jit
    def everything(variables: dict, frames: jax.Array, masks: jax.Array) -> dict[str, jax.Array]:
        grads, named = jax.grad(losses, has_aux=True)(
            variables["params"], variables["batch_stats"], frames, masks
        )
        return taps(variables, frames) | named | gradients(grads)

    ours = {k: np.asarray(v) for k, v in everything(variables, frames, masks).items()}
    small = at_scale(variables, frames, 0.75)
    size = tuple(case.manifest["protocol_size_hw"])
    ours["protocol.x1_scale075"] = small[None]
    ours["protocol.multiscale"] = (enlarged(small, size) + enlarged(ours["x1"][0], size)) / 2
    # Names of gradients and losses have no crop, but dots.
    case.compare({k: cut(ours[k.split("[")[0]], k) for k in case.outputs})
