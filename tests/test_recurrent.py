"""Recurrent layers keep time's order, states and statistics; tests/parity pins their arithmetic."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers import recurrent
from jaxvos.layers.recurrent import ConvGRU, ConvGRUCell, ConvLSTM, bidirectional, over_time
from jaxvos.layers.resnet import BatchNorm

LAYERS = (ConvLSTM(3, peephole="shared"), ConvLSTM(3, peephole="full"), ConvGRU(3), ConvLSTM(3))
NAMES = ("shared", "full", "gru", "plain")


def clip(key: int = 0, frames: int = 4, channels: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(key), (2, frames, 5, 6, channels))


def made(layer: nn.Module, x: jax.Array) -> dict:
    return jax.jit(layer.init)(jax.random.key(1), x)


class Smoother(nn.Module):
    """A state that a normalised convolution of the frame is added to, by a loop or one by one."""

    loop: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        update = Update(train, name="update")
        state = jnp.zeros(x[:, 0].shape)
        if self.loop:
            return over_time(lambda m, h, x: m(h, x), update, state, x)[1]
        states = []
        for t in range(x.shape[1]):
            state, seen = update(state, x[:, t])
            states.append(seen)
        return jnp.stack(states, axis=1)


class Update(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = nn.Conv(x.shape[-1], (3, 3), name="conv")(x + 0.5 * h)
        h = h + BatchNorm(use_running_average=not self.train, name="bn")(y)
        return h, h


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_in_the_loop_is_that_of_the_unrolled_steps(train, monkeypatch):
    monkeypatch.setattr(recurrent, "MOST_UNROLLED", 0)
    x = clip()
    variables = jax.jit(Smoother().init, static_argnums=2)(jax.random.key(0), x, train)
    unrolled = jax.jit(Smoother(loop=False).init, static_argnums=2)(jax.random.key(0), x, train)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, unrolled)

    def run(module):
        def value(params):
            both = {**variables, "params": params}
            y, changed = module.apply(both, x, train, mutable=["batch_stats"] if train else [])
            return (y**2).mean(), (y, changed)

        return jax.jit(jax.grad(value, has_aux=True))(variables["params"])

    ours, expected = run(Smoother()), run(Smoother(loop=False))
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    statistics = ours[1][1]
    assert ("batch_stats" in statistics) == train
    if train:  # four steps, each a tenth of the way
        moved = statistics["batch_stats"]["update"]["bn"]["mean"]
        assert (jnp.abs(moved - variables["batch_stats"]["update"]["bn"]["mean"]) > 1e-4).any()


@pytest.mark.parametrize("layer", LAYERS, ids=NAMES)
def test_the_reverse_pass_is_the_forward_pass_over_the_turned_clip(layer):
    x = clip()
    variables = made(layer, x)
    back = layer.apply(variables, x, reverse=True)
    np.testing.assert_allclose(back, layer.apply(variables, x[:, ::-1])[:, ::-1], atol=1e-6)
    assert (jnp.abs(back - layer.apply(variables, x)) > 1e-3).any()


@pytest.mark.parametrize("layer", LAYERS, ids=NAMES)
def test_a_clip_in_two_halves_is_the_whole_one_if_the_state_is_handed_on(layer):
    x = clip()
    variables = made(layer, x)
    if isinstance(layer, ConvGRU):
        whole = layer.apply(variables, x)
        state = layer.apply(variables, x[:, :2])[:, -1]
        rest = layer.apply(variables, x[:, 2:], initial=state)
    else:
        whole = layer.apply(variables, x)
        h, c = layer.apply(variables, x[:, :2], cells=True)
        rest = layer.apply(variables, x[:, 2:], initial=(h[:, -1], c[:, -1]))
    np.testing.assert_allclose(rest, whole[:, 2:], atol=1e-6)


def test_a_marker_begins_a_new_sequence_in_both_directions():
    x, layer = clip(), ConvLSTM(3)
    variables = made(layer, x)
    run = lambda x, **options: layer.apply(variables, x, **options)  # noqa: E731
    markers = jnp.ones((2, 4)).at[:, 0].set(0).at[1, 2].set(0)
    ahead, back = bidirectional(run, run, x, markers=markers)
    whole, halves = (
        bidirectional(run, run, x),
        [bidirectional(run, run, x[:, i:j]) for i, j in ((0, 2), (2, 4))],
    )
    for seen, joined, parts in ((ahead, whole[0], 0), (back, whole[1], 1)):
        np.testing.assert_allclose(seen[0], joined[0], atol=1e-6)
        split = jnp.concatenate([half[parts] for half in halves], axis=1)
        np.testing.assert_allclose(seen[1], split[1], atol=1e-6)


def test_the_deeper_backward_pass_sees_the_clip_through_the_forward_states_alone():
    x = clip(channels=3)
    forward, backward = ConvLSTM(3), ConvGRU(3)
    of_forward, of_backward = made(forward, x), made(backward, x)
    ahead, back = bidirectional(
        lambda x, **options: forward.apply(of_forward, x, **options),
        lambda x, **options: backward.apply(of_backward, x, **options),
        x,
        deeper=True,
    )
    np.testing.assert_allclose(ahead, forward.apply(of_forward, x), atol=1e-6)
    expected = backward.apply(of_backward, ahead, reverse=True)
    np.testing.assert_allclose(back, expected, atol=1e-6)
    assert (jnp.abs(back - backward.apply(of_backward, x, reverse=True)) > 1e-3).any()


def test_one_layer_run_both_ways_has_one_set_of_weights():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            memory = ConvGRU(3, kernel=7, name="memory")
            return jnp.concatenate(bidirectional(memory, memory, x), axis=-1)

    x = clip()
    variables = made(Both(), x)
    shapes = {k: v["kernel"].shape for k, v in variables["params"]["memory"].items()}
    assert list(variables["params"]) == ["memory"]
    assert shapes == {
        **{f"x_{name}": (7, 7, 2, 3) for name in ("update", "reset", "out")},
        **{f"h_{name}": (7, 7, 3, 3) for name in ("update", "reset", "out")},
    }
    y = Both().apply(variables, x)
    alone = ConvGRU(3, kernel=7).apply({"params": variables["params"]["memory"]}, x)
    np.testing.assert_allclose(y[..., :3], alone, atol=1e-6)


def test_peepholes_of_places_cannot_change_their_size():
    x = clip()
    variables = made(LAYERS[0], x)
    assert variables["params"]["peephole_o"].shape == (5, 6)
    assert made(LAYERS[1], x)["params"]["peephole_o"].shape == (5, 6, 3)
    with pytest.raises(Exception, match="peephole_i"):
        LAYERS[0].apply(variables, x[:, :, :4])


@pytest.mark.parametrize("state_first", [False, True])
def test_the_cell_takes_any_leading_axes_and_its_update_gate_weighs_the_candidate(state_first):
    cell = ConvGRUCell(3, kernel=(1, 5), state_first=state_first)
    x = clip(channels=2)
    h = clip(5, channels=3)
    variables = cell.init(jax.random.key(0), h, x)
    assert variables["params"]["out_gate"]["kernel"].shape == (1, 5, 5, 3)
    together = cell.apply(variables, h, x)
    np.testing.assert_allclose(together[1, 2], cell.apply(variables, h[1, 2], x[1, 2]), atol=1e-6)

    def gated(bias):
        gates = variables["params"] | {
            "update_gate": variables["params"]["update_gate"] | {"bias": jnp.full(3, bias)}
        }
        return cell.apply({"params": gates}, h, x)

    np.testing.assert_allclose(gated(-50.0), h, atol=1e-6)
    candidate = gated(50.0)
    assert jnp.abs(candidate).max() <= 1 and (jnp.abs(candidate - h) > 0.1).any()
    # No change of the input may reach the state's channels of the kernel, and the other way round.
    order = slice(0, 3) if state_first else slice(2, 5)
    deaf = jax.tree.map(
        lambda leaf: leaf.at[:, :, order].set(0) if leaf.ndim == 4 else leaf, variables
    )
    deaf["params"]["update_gate"]["bias"] = jnp.full(3, 50.0)
    np.testing.assert_allclose(cell.apply(deaf, h, x), cell.apply(deaf, h + 1, x), atol=1e-6)


@pytest.mark.parametrize("state_first", [False, True])
def test_inputs_that_stay_can_be_convolved_beforehand(state_first):
    cell = ConvGRUCell(3, kernel=(1, 5), state_first=state_first)
    x, h = clip(channels=6), clip(5, channels=3)
    variables = cell.init(jax.random.key(0), h, x)
    biases = {"bias": jnp.linspace(-1, 1, 3)}
    params = {name: gate | biases for name, gate in variables["params"].items()}
    stays, comes = x[..., :4], x[..., 4:]
    held = cell.apply({"params": params}, stays, method="held")
    found = cell.apply({"params": params}, h, comes, held)
    expected = cell.apply({"params": params}, h, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS, ids=NAMES)
def test_bfloat16_keeps_float32_parameters_and_cell_states(layer):
    x = clip()
    half = layer.copy(dtype=jnp.bfloat16)
    variables = made(half, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    near = half.apply(variables, x)
    assert near.dtype == jnp.bfloat16
    np.testing.assert_allclose(near.astype(jnp.float32), layer.apply(variables, x), atol=0.05)
    if isinstance(layer, ConvLSTM):
        assert half.apply(variables, x, cells=True)[1].dtype == jnp.float32


def test_what_does_not_fit_is_said():
    x, layer = clip(), ConvLSTM(3)
    variables = made(layer, x)
    with pytest.raises(ValueError, match=r"\(2, 5, 6, 3\) here, not \(2, 5, 6, 1\)"):
        layer.apply(variables, x, initial=(jnp.zeros((2, 5, 6, 1)),) * 2)
    with pytest.raises(ValueError, match=r"\[B, T\] = \(2, 4\) here; these are \(4, 2\)"):
        layer.apply(variables, x, markers=jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="kernel=4: only odd ones"):
        made(ConvGRU(3, kernel=4), x)
    with pytest.raises(ValueError, match="peephole='none'"):
        made(ConvLSTM(3, peephole="none"), x)


def test_a_cpu_takes_a_short_loops_steps_one_after_the_other_with_the_same_gradient(monkeypatch):
    layer = ConvLSTM(features=3)
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6, 2))
    variables = layer.init(jax.random.key(1), x)

    def lowered():
        gradient = jax.grad(lambda v: jnp.sin(layer.apply(v, x)).sum())
        return jax.jit(gradient).lower(variables)

    steps = lowered()
    monkeypatch.setattr(recurrent, "MOST_UNROLLED", 4)
    loop = lowered()
    assert "while" not in steps.as_text() and "while" in loop.as_text()
    found, expected = (each.compile()(variables) for each in (steps, loop))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
    monkeypatch.setattr(recurrent.jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(recurrent, "MOST_UNROLLED", 16)
    assert recurrent.unrolled(5) == 1
