"""TMO with either encoder answers as the released network, at every tap, alone and by selection.

Gradients are computed in float64. The decoder takes the largest of 256 channels at every place;
where two are equal but for float32's rounding, their gradient goes one way or the other.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.layers.pixels import MEAN_RGB, STD_RGB
from jaxvos.layers.resize import bicubic
from jaxvos.systems.tmo import NAMES, SIZE, TMO, confidence, for_object, loss, surer
from jaxvos.torch_import import to_variables

from . import cases

MODELS = {"tmo": TMO(), "tmo_mitb1": TMO(encoder="mit", depths=(2, 2, 2, 2))}
CASES = [(name, folder) for name in MODELS for folder in cases.folders(name)]
STRIDES = {"s4": (32, 8), "s8": (64, 4), "s16": (128, 2), "s32": (256, 1)}


def inputs_of(case: cases.Case) -> dict[str, np.ndarray]:
    """Normalised pictures [B, H, W, 3] and masks [B, T, H, W, 1], as "how" says, float64."""
    shapes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}

    def image(name: str, shape: list[int]) -> np.ndarray:
        return cases.image(case.manifest["case"], name, shape)

    made = {"masks": (image("masks", shapes["masks"]) > 0.2)[..., None].astype(float)}
    for name in ("imgs", "flows"):
        batch, _, *rest = shapes[name]
        picture = np.clip(0.5 + 0.25 * image(name, [batch, *rest]), 0, 1)
        made[name] = (np.moveaxis(picture, 1, -1) - MEAN_RGB) / STD_RGB
    return made


def variables_of(case: cases.Case, model: TMO) -> dict:
    """float64, since what float32 leaves of each number is converted alike."""
    example = jnp.zeros((1, 1, 64, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), example, example)
    shapes = {k: shapes[k] for k in ("params", "batch_stats") if k in shapes}
    made = {p["name"]: cases._parameter(case.manifest["case"], p) for p in case.manifest["params"]}
    rest = {name: value - value.astype(np.float32) for name, value in made.items()}
    trees = (to_variables(tensors, NAMES, shapes) for tensors in (made, rest))
    return jax.tree.map(lambda a, b: a.astype(float) + b, *trees)


def nchw(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def taps(model: TMO, variables: dict, inputs: dict) -> dict[str, jax.Array]:
    """Every stored output but the loss and its gradients, and what hard masks are made of."""
    size = inputs["imgs"].shape[1:3]
    frames, flow = (bicubic(inputs[name], SIZE) for name in ("imgs", "flows"))
    app = model.apply(variables, frames, method="appearance")
    both = model.apply(variables, jnp.concatenate([flow, frames]), method="motion")
    mo, mo_image = ([half[i] for half in (jnp.split(m, 2) for m in both)] for i in (0, 1))
    logits, inside = model.apply(variables, app, mo, method="decode", mutable=["intermediates"])
    by_image = model.apply(variables, app, mo_image, method="decode")
    scores = bicubic(logits, size)
    found = {"scores": nchw(scores)[:, None], "score384": nchw(logits)[:, :, ::8, ::8]}
    for name, maps in (("app", app), ("mo", mo)):
        for (scale, (channels, places)), m in zip(STRIDES.items(), maps, strict=True):
            found[f"{name}_{scale}"] = nchw(m)[:, ::channels, ::places, ::places]
    for name, (value,) in (
        (k.removesuffix("_out"), v)
        for k, v in inside["intermediates"]["decoder"].items()
        if k.endswith("_out")
    ):
        step = 2 ** (int(name[-1]) - 1)
        found[name] = nchw(value)[:, ::32, ::step, ::step]
    chosen = bicubic(surer(by_image, logits), size)
    conf = jnp.stack([confidence(by_image), confidence(logits)], axis=1)
    for i in range(len(logits)):
        found[f"aos{i}_score_img384"] = nchw(by_image[i : i + 1])[:, :, ::12, ::12]
        found[f"aos{i}_score_flow384"] = nchw(logits[i : i + 1])[:, :, ::12, ::12]
        found[f"aos{i}_conf"] = conf[i]
        found[f"aos{i}_mask"] = for_object(chosen[i])[None, None, None]
        found[f"mask{i}"] = for_object(scores[i])[None, None, None]
    return found


def our_path(name: str, paths: list[str]) -> str:
    """Where the published parameter is in our tree."""
    module, _, kind = name.rpartition(".")
    matches = ((re.fullmatch(pattern, module), path) for pattern, path in NAMES)
    path = next(match.expand(path) for match, path in matches if match)
    kinds = ("kernel", "scale") if kind == "weight" else (kind,)
    return next(f"{path}/{kind}" for kind in kinds if f"{path}/{kind}" in paths)


def decided(case: cases.Case, name: str, logits: np.ndarray, scale: float) -> np.ndarray:
    """The hard mask; the reference's where float32 cannot tell the classes apart."""
    unsure = np.abs(logits) <= case.tolerance * scale
    return np.where(unsure, case.outputs[name], logits > 0).astype(float)


def gradients(case: cases.Case, model: TMO, variables: dict, inputs: dict) -> dict:
    """The stored gradients, in the published layout and with the published names."""
    params = flatten_dict(variables["params"], sep="/")
    stored = [k.removeprefix("grad:") for k in case.outputs if k.startswith("grad:")]
    asked = {name: our_path(name, list(params)) for name in stored}

    @jax.jit
    def gradient(some: dict, rest: dict, statistics: dict, inputs: dict) -> dict:
        def objective(some: dict) -> jax.Array:
            tree = {"params": unflatten_dict(some | rest, sep="/"), **statistics}
            frames, flow = (bicubic(inputs[name], SIZE) for name in ("imgs", "flows"))
            logits = model.apply(tree, frames[:, None], flow[:, None])[:, 0]
            scores = bicubic(logits, inputs["imgs"].shape[1:3])
            return loss(scores[:, None], {"masks": inputs["masks"]})[0]

        return jax.grad(objective)(some)

    with jax.enable_x64(True):
        some = {path: params.pop(path) for path in asked.values()}
        statistics = {k: v for k, v in variables.items() if k != "params"}
        grads = gradient(some, params, statistics, inputs)
        return {f"grad:{name}": published(np.asarray(grads[path])) for name, path in asked.items()}


def published(gradient: np.ndarray) -> np.ndarray:
    """A kernel's gradient as PyTorch has it; of others as it is."""
    return np.moveaxis(gradient, (-1, -2), (0, 1)) if gradient.ndim > 1 else gradient


@pytest.mark.parametrize(("name", "folder"), CASES, ids=lambda x: getattr(x, "name", x))
def test_every_output_the_loss_and_its_gradients_are_the_released_networks(name, folder):
    case, model = cases.load(folder), MODELS[name]
    variables, inputs = variables_of(case, model), inputs_of(case)
    whole = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (variables, inputs))

    @jax.jit
    def answers(variables: dict, inputs: dict) -> dict[str, jax.Array]:
        found = taps(model, variables, inputs)
        scores = jnp.moveaxis(found["scores"], 2, -1)
        return found | {"loss": loss(scores, {"masks": inputs["masks"]})[0].reshape(1)}

    found = answers(*whole)
    ours = {k: np.asarray(v) for k, v in found.items() if k in case.outputs}
    scale = np.abs(case.outputs["scores"]).max()
    ours |= {k: decided(case, k, v, scale) for k, v in ours.items() if "mask" in k}
    case.compare(ours | gradients(case, model, variables, inputs))
