"""DPA's network for video and its pretraining's answer as the released ones, at every tap.

Whatever rests on the graphs of prototypes (the whole of the pretraining, and the inter-modality
attention, which the video's network does not call) is computed in float64: which is the tenth
nearest is a matter of the last digits of float32. So are the gradients.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.systems.dpa import DPA, NAMES, loss
from jaxvos.torch_import import to_variables

from . import cases

MODELS = {"dpa": DPA(), "dpa_pretrain": DPA(stage="pretrain")}
CASES = [(name, folder) for name in MODELS for folder in cases.folders(name)]
STREAMS = ("rgb", "flow")


def inputs_of(case: cases.Case) -> dict[str, np.ndarray]:
    """Prepared pictures, clips of them and masks, as "how" says, channels last, float64."""

    def frames(name: str) -> np.ndarray:
        """[1, N, H, W, 3] of what is stacked on channels."""
        shape = shapes[name]
        x = cases.image(case.manifest["case"], name, shape)
        return np.moveaxis(x.reshape(1, -1, 3, *shape[2:]), 2, -1)

    shapes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    drawn = lambda x: np.clip(0.5 + 0.25 * x, 0, 1)  # noqa: E731
    mask = cases.image(case.manifest["case"], "gt", shapes["gt"]) > 0.2
    made = {"frames": frames("image"), "mask": np.moveaxis(mask, 1, -1).astype(float)}
    if "flow" in shapes:
        made["frames"] = np.concatenate([made["frames"], frames("image_ref")], axis=1)
        made["flow"] = np.concatenate([drawn(frames("flow")), drawn(frames("flow_ref"))], axis=1)
    else:
        made["flow"] = np.zeros_like(made["frames"])
    return made


def variables_of(case: cases.Case, model: DPA) -> dict:
    """float64, since what float32 leaves of each number is converted alike."""
    example = jnp.zeros((1, 2, 64, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), example, example)
    shapes = {k: shapes[k] for k in ("params", "batch_stats")}
    made = {p["name"]: cases._parameter(case.manifest["case"], p) for p in case.manifest["params"]}
    rest = {name: value - value.astype(np.float32) for name, value in made.items()}
    trees = (to_variables(tensors, NAMES, shapes) for tensors in (made, rest))
    return jax.tree.map(lambda a, b: a.astype(float) + b, *trees)


def nchw(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def sown(inside: dict) -> dict:
    """Path -> what was sown there once, or last."""
    flat = flatten_dict(inside["intermediates"], sep="/", is_leaf=lambda _, x: type(x) is tuple)
    return {path: value[-1] for path, value in flat.items()}


def answers_of(found: jax.Array, inside: dict, mask: jax.Array) -> dict[str, jax.Array]:
    """What both networks end with."""
    made = {
        "merge_56": nchw(inside["decoder/merge56_out"])[:, :16],
        "merge_45": nchw(inside["decoder/narrowed"])[:, :16],
    }
    for i, logits in enumerate(inside["decoder/logits"]):
        made[f"logit{4 - i}"] = nchw(logits)
        step = 2 if i in (1, 2) else 1
        made[f"out_{i}"] = nchw(found[..., i : i + 1])[:, :, ::step, ::step]
    losses = [loss(found[..., which], {"mask": mask})[0] for which in (slice(None), *PARTS)]
    return made | {"loss": jnp.stack(losses)}


PARTS = [slice(i, i + 1) for i in range(4)]


def video_taps(model: DPA, variables: dict, inputs: dict) -> dict[str, jax.Array]:
    """Every stored output of the video's network but the inter-modality attention's."""
    frames, flow = inputs["frames"], inputs["flow"]
    found, inside = model.apply(variables, frames, flow, mutable=["intermediates"])
    inside = sown(inside)
    made = answers_of(found, inside, inputs["mask"])
    squeezed = model.apply(variables, frames[:, 0], flow[:, 0], method=squeezes)
    for s, stream in enumerate(STREAMS):
        made[f"{stream}_sq4"] = nchw(squeezed[s][0])[:, :8]
        made[f"{stream}_sq5"] = nchw(squeezed[s][1])[:, :16]
        made[f"{stream}_TAM"] = nchw(inside["recalled"][s])[:, ::16]
        made[f"{stream}_COMP6"] = nchw(inside[f"{stream}/halved"])[:, :16]
        for scale, (name, channels) in enumerate((("COMP4", 16), ("COMP5", 16), ("aspp", 32))):
            made[f"{stream}_{name}"] = nchw(inside["scales"][s][scale])[:, :channels]
        made[f"{stream}_TAM_corr"] = nchw(inside[f"{stream}/recall/maps"])[:, :32]
        made[f"{stream}_TAM_query_prototypes"] = inside[f"{stream}/recall/query"][:, :16]
    keys = model.apply(variables, frames[:, 1:], flow[:, 1:], method="remember")
    for stream, vectors in zip(STREAMS, keys, strict=True):
        made[f"{stream}_TAM_key_prototypes_ref0"] = vectors[:, :16]
    for scale, value in zip((4, 5, 6), inside["fused"], strict=True):
        made[f"total_fuse{scale}"] = nchw(value)[:, :16]
    return made


def squeezes(model: DPA, frames: jax.Array, flow: jax.Array) -> list:
    """f4 and f5 squeezed, of both streams."""
    made = []
    for stream, x in ((model.rgb, frames), (model.flow, flow)):
        f4 = stream.early(x)[-1]
        made.append([stream.squeeze4(f4), stream.squeeze5(stream.last(f4))])
    return made


def modalities(model: DPA, frames: jax.Array, flow: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last inter-modality attention on its own, which the video's network does not call."""
    streams = model.rgb, model.flow
    f5 = [s.last(s.early(x)[-1]) for s, x in zip(streams, (frames, flow), strict=True)]
    return model.dam5(f5, [s.squeeze5(x) for s, x in zip(streams, f5, strict=True)], False)


def modality_taps(model: DPA, variables: dict, inputs: dict) -> dict[str, jax.Array]:
    found, inside = model.apply(
        variables,
        inputs["frames"][:, 0],
        inputs["flow"][:, 0],
        method=modalities,
        mutable=["intermediates"],
    )
    inside, made = sown(inside), {}
    for s, stream in enumerate(STREAMS):
        made[f"IMA_{stream}"] = nchw(found[s])[:, ::16]
        made[f"IMA_{stream}_corr"] = nchw(inside[f"dam5/{stream}/maps"])[:, :16]
        made[f"IMA_{stream}_mutual"] = nchw(inside["dam5/refined"][s])[:, :16]
    return made


def pretraining_taps(model: DPA, variables: dict, inputs: dict) -> dict[str, jax.Array]:
    found, inside = model.apply(
        variables, inputs["frames"], inputs["flow"], mutable=["intermediates"]
    )
    inside = sown(inside)
    made = answers_of(found, inside, inputs["mask"])
    for i, (level, channels) in enumerate(((4, 8), (5, 16))):
        made[f"rgb_sq{level}"] = nchw(inside["squeezed"][i])[:, :channels]
        made[f"DAM{level}"] = nchw(inside["attended"][i])[:, ::32]
        here = f"dam{level}/rgb"
        made[f"DAM{level}_prototypes"] = inside[f"{here}/own"][:, :16]
        made[f"DAM{level}_transformer"] = inside[f"{here}/graph/related"][:, :16]
        made[f"DAM{level}_graph_prototypes"] = inside[f"{here}/related"][:, :16]
        made[f"DAM{level}_corr"] = nchw(inside[f"{here}/maps"])[:, :16]
    made["rgb_COMP6"] = nchw(inside["rgb/halved"])[:, :16]
    for scale, (name, channels) in enumerate((("COMP4", 16), ("COMP5", 16), ("aspp", 32))):
        made[f"rgb_{name}"] = nchw(inside["scales"][scale])[:, :channels]
    return made


def our_path(name: str, paths: list[str]) -> str:
    """Where the published parameter is in our tree."""
    module, _, kind = name.rpartition(".")
    matches = ((re.fullmatch(pattern, module), path) for pattern, path in NAMES)
    path = next(match.expand(path) for match, path in matches if match)
    kinds = ("kernel", "scale") if kind == "weight" else (kind,)
    return next(f"{path}/{kind}" for kind in kinds if f"{path}/{kind}" in paths)


def gradients(case: cases.Case, model: DPA, variables: dict, inputs: dict) -> dict:
    """The stored gradients, in the published layout and with the published names."""
    params = flatten_dict(variables["params"], sep="/")
    stored = [k.removeprefix("grad:") for k in case.outputs if k.startswith("grad:")]
    asked = {name: our_path(name, list(params)) for name in stored}

    @jax.jit
    def gradient(some: dict, rest: dict, statistics: dict, inputs: dict) -> dict:
        def objective(some: dict) -> jax.Array:
            tree = {"params": unflatten_dict(some | rest, sep="/"), "batch_stats": statistics}
            found = model.apply(tree, inputs["frames"], inputs["flow"])
            return loss(found, {"mask": inputs["mask"]})[0]

        return jax.grad(objective)(some)

    some = {path: params.pop(path) for path in asked.values()}
    grads = gradient(some, params, variables["batch_stats"], inputs)
    return {f"grad:{name}": published(np.asarray(grads[path])) for name, path in asked.items()}


def published(gradient: np.ndarray) -> np.ndarray:
    """A gradient as it is stored: a kernel as PyTorch has it, and of a large one a part."""
    if gradient.ndim == 1:
        return gradient
    gradient = np.moveaxis(gradient, (-1, -2), (0, 1))
    return gradient[:8, :64] if gradient.size >= 4000 else gradient


@pytest.mark.parametrize(("name", "folder"), CASES, ids=lambda x: getattr(x, "name", x))
def test_every_output_the_loss_and_its_gradients_are_the_released_networks(name, folder):
    case, model = cases.load(folder), MODELS[name]
    variables, inputs = variables_of(case, model), inputs_of(case)
    whole = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (variables, inputs))
    run = lambda taps, *inputs: jax.jit(lambda *x: taps(model, *x))(*inputs)  # noqa: E731
    ours = {}
    if name == "dpa":
        ours |= run(video_taps, *whole)
    with jax.enable_x64(True):
        taps = modality_taps if name == "dpa" else pretraining_taps
        ours |= run(taps, variables, inputs)
        ours |= gradients(case, model, variables, inputs)
    case.compare({k: np.asarray(v) for k, v in ours.items()})
