"""ConvLSTM and ConvGRU answer as an independent float64 implementation does, in every variant."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.recurrent import ConvGRU, ConvGRUCell, ConvLSTM, bidirectional

from . import cases


def kernel(weight: np.ndarray) -> np.ndarray:
    return np.transpose(weight, (2, 3, 1, 0))


def lstm(p: dict, name: str, peepholes: str | None = None) -> dict:
    """Our variables of the published ConvLSTM `name` with the peepholes of another, or none."""
    params = {
        "x_conv": {"kernel": kernel(p[f"{name}.wx"])},
        "h_conv": {"kernel": kernel(p[f"{name}.wh"])},
        "bias": p[f"{name}.b"],
    }
    if peepholes:
        for gate in "ifo":
            weights = p[f"{peepholes}.p{gate}"]
            params[f"peephole_{gate}"] = (
                np.moveaxis(weights, 0, -1) if weights.ndim == 3 else weights
            )
    return {"params": params}


def gru(p: dict) -> dict:
    params = {}
    for letter, name in (("z", "update"), ("r", "reset"), ("h", "out")):
        params[f"x_{name}"] = {"kernel": kernel(p[f"gru.wx{letter}"]), "bias": p[f"gru.b{letter}"]}
        params[f"h_{name}"] = {"kernel": kernel(p[f"gru.wh{letter}"])}
    return {"params": params}


def joined(variables: dict) -> dict:
    """A ConvGRU's variables for the cell, which convolves input and state joined."""
    params = variables["params"]
    return {
        "params": {
            f"{name}_gate": {
                "kernel": np.concatenate(
                    [params[f"x_{name}"]["kernel"], params[f"h_{name}"]["kernel"]], axis=2
                ),
                "bias": params[f"x_{name}"]["bias"],
            }
            for name in ("update", "reset", "out")
        }
    }


def lstms(p: dict, x: jax.Array, h0: jax.Array, c0: jax.Array) -> dict[str, jax.Array]:
    features = p["lstm_a.b"].size // 4
    plain, dilated = ConvLSTM(features), ConvLSTM(features, dilation=2)
    caffe = ConvLSTM(features, peephole="shared")
    first = jnp.ones(x.shape[:2]).at[:, 0].set(0)
    cut = first.at[0, 2].set(0)
    runs = {
        "lstm_plain": plain.apply(lstm(p, "lstm_a"), x, cells=True),
        "lstm_dil2": dilated.apply(lstm(p, "lstm_a"), x, cells=True),
        "lstm_plain_init": plain.apply(lstm(p, "lstm_a"), x, initial=(h0, c0), cells=True),
        "lstm_shi": ConvLSTM(features, peephole="full").apply(
            lstm(p, "lstm_a", "lstm_shi"), x, cells=True
        ),
    }
    for name, module, markers in (
        ("lstm_caffe", caffe, first),
        ("lstm_caffe_dil2", caffe.copy(dilation=2), first),
        ("lstm_caffe_cut", caffe, cut),
    ):
        variables = lstm(p, "lstm_a", "lstm_a")
        runs[name] = module.apply(variables, x, markers=markers, cells=True)
    ahead, back = bidirectional(
        partial(caffe.apply, lstm(p, "lstm_a", "lstm_a")),
        partial(caffe.apply, lstm(p, "lstm_b", "lstm_b")),
        x,
        deeper=True,
        markers=first,
    )
    return {
        **{f"{name}/h": h for name, (h, _) in runs.items()},
        **{f"{name}/c": c for name, (_, c) in runs.items()},
        "lstm_plain_bwd/h": plain.apply(lstm(p, "lstm_a"), x, reverse=True),
        "db_lstm/backward": back,
        "db_lstm/sum": ahead + back,
    }


def grus(p: dict, x: jax.Array, h0: jax.Array) -> dict[str, jax.Array]:
    side, variables = p["gru.wxz"].shape[-1], gru(p)
    module = ConvGRU(p["gru.bz"].size, kernel=side)
    both = partial(module.apply, variables)
    pair = bidirectional(both, both, x)
    concat = jnp.concatenate(pair, axis=-1)
    merged = jax.lax.conv_general_dilated(
        concat.reshape(-1, *concat.shape[2:]),
        kernel(p["lvo.merge.w"]),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    merged = merged.reshape(*concat.shape[:-1], -1) + p["lvo.merge.b"].reshape(1, 1, 1, 1, -1)
    return {
        "gru/h": pair[0],
        "gru_bwd/h": pair[1],
        "gru_reset_after/h": module.copy(reset_after=True).apply(variables, x),
        "gru_init/h": module.apply(variables, x, initial=h0),
        "gru_bidir/concat": concat,
        "gru_bidir/merged": merged,
    }


@pytest.mark.parametrize("folder", cases.folders("recurrent"), ids=lambda f: f and f.name)
def test_every_variant_is_the_references(folder):
    case = cases.load(folder)
    name, p = case.manifest["case"], case.parameters()
    shapes = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}
    # As stored: [T, N, C, H, W] and, for the states, [N, C, H, W].
    x = np.transpose(cases.draw(name, "x", shapes["x"]), (1, 0, 3, 4, 2)).astype(np.float32)
    h0, c0 = (
        np.moveaxis(0.5 * cases.draw(name, each, shapes[each]), 1, -1).astype(np.float32)
        for each in ("h0", "c0")
    )

    @jax.jit
    def everything(p: dict, x: jax.Array, h0: jax.Array, c0: jax.Array) -> dict:
        return lstms(p, x, h0, c0) | grus(p, x, h0)

    p = {name: jnp.asarray(value) for name, value in p.items()}
    ours = everything(p, x, h0, c0)
    ours = {k: np.transpose(v, (1, 0, 4, 2, 3)) for k, v in ours.items()}
    case.compare(ours)
    for output, reference in case.outputs.items():  # cells hold a sharper tolerance than networks
        assert np.abs(ours[output] - reference).max() <= 1e-6 * np.abs(reference).max(), output


@pytest.mark.parametrize("folder", cases.folders("recurrent"), ids=lambda f: f and f.name)
def test_the_cell_step_by_step_is_the_references(folder):
    case = cases.load(folder)
    p = case.parameters()
    shape = {entry["name"]: entry["shape"] for entry in case.manifest["inputs"]}["x"]
    x = np.moveaxis(cases.draw(case.manifest["case"], "x", shape), 2, -1).astype(np.float32)
    side, features = p["gru.wxz"].shape[-1], p["gru.bz"].size
    cell = ConvGRUCell(features, kernel=(side, side))
    h = jnp.zeros((*x.shape[1:-1], features))
    for frame, expected in zip(x, case.outputs["gru/h"], strict=True):
        h = cell.apply(joined(gru(p)), h, jnp.asarray(frame))
        np.testing.assert_allclose(np.moveaxis(h, -1, 1), expected, atol=1e-6)
