"""RAFT, basic and small, answers as the released network does, iteration by iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.flow.colour import WHEEL, picture
from jaxvos.flow.raft import RAFT, padding, prepare
from jaxvos.layers.correlation import volume
from jaxvos.systems.raft import NAMES, sequence_loss
from jaxvos.torch_import import to_variables

from . import cases

ITERATIONS = 4


def inputs(case: cases.Case) -> dict[str, np.ndarray]:
    """What the manifest's formulas make: pictures 0..255, flow, what is known of it, a start."""
    name, shapes = case.manifest["case"], {e["name"]: e["shape"] for e in case.manifest["inputs"]}
    a = cases.image(name, "image1", shapes["image1"])
    b = 0.9 * np.roll(a, (2, 5), (2, 3)) + 0.3 * cases.image(name, "image2", shapes["image2"])
    height, width = shapes["valid"][1:]
    made = {
        "image1": np.clip(127.5 + 50 * a, 0, 255),
        "image2": np.clip(127.5 + 50 * b, 0, 255),
        "flow_gt": 8 * cases.image(name, "flow_gt", shapes["flow_gt"]),
        "valid": cases.image(name, "valid", [1, 1, height, width]) > -1,
        "flow_init": 1.5 * cases.image(name, "flow_init", shapes["flow_init"]),
    }
    made = {key: np.moveaxis(np.asarray(value, np.float32), 1, -1) for key, value in made.items()}
    if "viz_flow" in shapes:
        flow = np.moveaxis(4 * cases.image(name, "viz_flow", [1, 2, 48, 64])[0], 0, -1).copy()
        flow[0, 0] = 0
        flow[1, :8] = [[3, 0], [-3, 0], [0, 3], [0, -3], [2, 2], [-2, 2], [2, -2], [-2, -2]]
        made["viz_flow"] = flow
    return made


def taps(model: RAFT, variables: dict, made: dict, pyramid: list) -> dict[str, np.ndarray]:
    """Every stored output of the network, channels first, cut as it is stored."""
    frames = prepare(jnp.stack([made["image1"], made["image2"]], axis=1))
    flows, inside = model.apply(variables, frames, mutable=["intermediates"])
    inside = jax.device_get(inside["intermediates"])
    encoders = {
        name: model.apply(
            variables,
            frames[:, 0],
            method=lambda module, x, name=name: getattr(module, name)(x, False),
            mutable=["intermediates"],
        )
        for name in ("fnet", "cnet")
    }
    b = model.apply(variables, frames[:, 1], method="features")
    first = lambda x: np.moveaxis(np.asarray(x), -1, 1)  # noqa: E731
    (a, of_a), (context, _) = encoders["fnet"], encoders["cnet"]
    (init_low, init_up), (low, _) = (
        RAFT(small=model.small, iterations=i).apply(
            variables, a, b, context, start, method="refine"
        )
        for i, start in ((2, made["flow_init"]), (ITERATIONS, None))
    )
    seen, motion, states, changes = inside["update"]["steps"][0]
    found = {
        **{
            f"fnet_layer{i}": first(of_a["intermediates"]["fnet"][f"layer{i}_out"][0])[
                :, :4, ::2, ::2
            ]
            for i in (1, 2)
        },
        "fmap1": first(a)[:, :16],
        "fmap2": first(b)[:, :8],
        "cnet_out": first(context)[:, ::16],
        "init_flow_low": first(init_low),
        "init_flow_up": first(init_up)[..., ::3, ::3],
        "flow_low": first(low),
    }
    for i in (1, 2):
        layer = of_a["intermediates"]["fnet"][f"layer{i}_out"][0]
        found[f"fnet_layer{i}"] = first(layer)[:, :4, ::2, ::2]
    for i, level in enumerate(pyramid):
        places = level[0].reshape(*a.shape[1:3], *level.shape[2:])
        stride = 5 if i == 0 else 3
        found[f"corr_pyramid{i}"] = places[::stride, ::stride]
    for t in (1, ITERATIONS):
        found[f"lookup_iter{t}"] = first(seen[t - 1])[:, ::3, ::2, ::2]
        found[f"motion_iter{t}"] = first(motion[t - 1])[:, -10:]
        found[f"hidden_iter{t}"] = first(states[t - 1])[:, :8]
        if not model.small:
            found[f"upmask_iter{t}"] = first(inside["update"]["mask"][0][t - 1])[:, ::64]
    for t in range(1, ITERATIONS + 1):
        found[f"delta_iter{t}"] = first(changes[t - 1])
        whole = first(flows[:, t - 1])
        found[f"flow_up_iter{t}"] = whole if t == ITERATIONS else whole[..., ::3, ::3]
    return found


def losses(params: dict, statistics: dict, model: RAFT, made: dict) -> tuple[jax.Array, jax.Array]:
    frames = prepare(jnp.stack([made["image1"], made["image2"]], axis=1))
    predictions = model.apply({"params": params, "batch_stats": statistics}, frames)
    flow = jnp.where(made["valid"] > 0.5, made["flow_gt"], jnp.nan)
    total, error = sequence_loss(predictions, flow)
    return total, jnp.stack([total, error])


def gradients(grads: dict, names: list[str]) -> dict[str, np.ndarray]:
    """The stored gradients, in the published layout and under the published names."""
    leaves = {"weight": "kernel", "bias": "bias"}
    found = {}
    for name in names:
        module, _, leaf = name.removeprefix("grad:").rpartition(".")
        path = next(
            match.expand(ours)
            for pattern, ours in NAMES
            if (match := cases.re.fullmatch(pattern, module))
        )
        node = grads
        for part in path.split("/"):
            node = node[part]
        value = np.asarray(node[leaves[leaf]])
        value = np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim == 4 else value
        found[name] = value[:8, :64] if value.size >= 5000 else value
    return found


def drawn(flow: np.ndarray) -> dict[str, np.ndarray]:
    """The stored pictures of a flow, and paddings."""
    longest = np.sqrt((flow**2).sum(axis=-1)).max()
    sizes = ((436, 1024), (480, 854), (375, 1242), (97, 131))
    pads = []
    for top in (True, False):
        for size in sizes:
            (above, below), (left, right) = padding(size, top=top, least=0)
            pads.append([left, right, above, below])
    return {
        "viz_rgb": picture(flow),
        "viz_bgr_head": picture(flow, bgr=True)[:2],
        "viz_rgb_clip3": picture(np.clip(flow, 0, 3)),
        "viz_unnormalised": picture(flow, longest=0.5 * longest),
        "colorwheel": WHEEL,
        "pads": np.array(pads),
    }


@pytest.mark.parametrize("name", ["raft", "raft_small"])
def test_raft_answers_as_released(name):
    for folder in cases.folders(name):
        case = cases.load(folder)
        made, model = inputs(case), RAFT(small=name == "raft_small", iterations=ITERATIONS)
        frames = jnp.zeros((1, 2, 64, 64, 3))
        target = jax.eval_shape(model.init, jax.random.key(0), frames)
        variables = to_variables(case.parameters(), NAMES, target)
        grads = [output for output in case.outputs if output.startswith("grad:")]
        a, b = (
            model.apply(variables, prepare(made[key]), method="features")
            for key in ("image1", "image2")
        )
        ours = taps(model, variables, made, [np.asarray(level) for level in volume(a, b)])
        (_, numbers), of_params = jax.value_and_grad(losses, has_aux=True)(
            variables["params"], variables.get("batch_stats", {}), model, made
        )
        ours |= {"loss": numbers, **gradients(jax.device_get(of_params), grads)}
        if "viz_flow" in made:
            ours |= drawn(made["viz_flow"])
        case.compare(ours)
