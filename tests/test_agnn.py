"""AGNN's graph, protocol and loss; its arithmetic is pinned by tests/parity."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.inference import draw_references
from jaxvos.layers.position_attention import attend
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import agnn, get
from jaxvos.typing import Video

TINY = {"depths": (1, 1, 1, 1), "width": 4, "branch": 8, "features": 8, "head_std": 0.3}
SIZE = (33, 49)
SCALES = (0.75, 1.0)
PROTOCOL = {"size": SIZE, "scales": SCALES}


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def tiny():
    model = agnn.AGNN(**TINY, rounds=2)
    return model, initialise(agnn.SYSTEM, model, 0)


def states(nodes: int = 3, key: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(key), (1, nodes, 5, 7, 8))


def decided(model, variables, nodes, wanted=None):
    return jax.jit(lambda v, x: model.apply(v, x, wanted, method="decide"))(variables, nodes)


@pytest.mark.parametrize("block", [4, 8, 64])
def test_attention_in_blocks_has_the_numbers_and_gradients_of_the_whole_matrix(block):
    q, k, v, ahead = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(21, 6), (13, 6), (13, 4), (21, 4)])
    )

    def weighed(block):
        form = lambda q, k, v: (attend(q, k, v, block) * ahead).sum()  # noqa: E731
        return jax.value_and_grad(form, argnums=(0, 1, 2))(q, k, v)

    for ours, expected in zip(
        jax.tree.leaves(weighed(block)), jax.tree.leaves(weighed(0)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_attention_to_one_sure_match_copies_its_value():
    seen = attend(30 * jnp.eye(3), 30 * jnp.eye(3)[jnp.asarray([2, 0, 1])], jnp.eye(3))
    np.testing.assert_allclose(seen, jnp.eye(3)[jnp.asarray([1, 2, 0])], atol=1e-4)


def test_blocks_and_recomputation_leave_the_gradient_as_it_is(tiny):
    model, variables = tiny
    nodes = states()

    def gradient(model):
        value = lambda p: (  # noqa: E731
            model.apply({**variables, "params": p}, nodes, method="decide") ** 2
        ).sum()
        return jax.jit(jax.grad(value))(variables["params"])["graph"]

    expected = gradient(model.copy(block=0))
    for other in (model.copy(block=8), model.copy(block=8, remat=True)):
        for a, b in zip(jax.tree.leaves(gradient(other)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def by_hand(params: dict, h: np.ndarray) -> np.ndarray:
    """One round over states [N, P, C] as the paper's loops, with every kernel's middle alone."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    middle = lambda conv: conv["kernel"][conv["kernel"].shape[0] // 2, conv["kernel"].shape[1] // 2]  # noqa: E731
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    new = []
    for i in range(len(h)):
        messages = []
        for j in range(len(h)):
            if i == j:
                continue
            affinity = h[i] @ p["linear_e"]["kernel"] @ h[j].T
            weights = np.exp(affinity - affinity.max(axis=1, keepdims=True))
            message = (weights / weights.sum(axis=1, keepdims=True)) @ h[j]
            messages.append(message * sigmoid(message @ middle(p["gate"])))
        fused = (
            np.concatenate(messages, axis=1) @ middle(p["conv_fusion"]) + p["conv_fusion"]["bias"]
        )
        gate = lambda name, x: x @ middle(p["gru"][name]) + p["gru"][name]["bias"]  # noqa: E731
        z = sigmoid(gate("update_gate", np.concatenate([fused, h[i]], axis=1)))
        r = sigmoid(gate("reset_gate", np.concatenate([fused, h[i]], axis=1)))
        candidate = np.tanh(gate("out_gate", np.concatenate([fused, r * h[i]], axis=1)))
        new.append((1 - z) * h[i] + z * candidate)
    return np.stack(new)


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_a_round_of_any_number_of_nodes_is_the_papers_loops(nodes):
    one = agnn.Round(0.5, 8, None)
    h = jax.random.normal(jax.random.key(0), (2, nodes, 3, 4, 6))
    everyone = tuple(range(nodes))
    params = jax.jit(one.init, static_argnums=2)(jax.random.key(1), h, everyone)["params"]
    kernel = params["conv_fusion"]["kernel"]
    assert kernel.shape == (3, 3, 6 * (nodes - 1), 6)
    params["conv_fusion"]["kernel"] = jnp.zeros_like(kernel).at[1, 1].set(kernel[1, 1])
    ours = jax.jit(one.apply, static_argnums=2)({"params": params}, h, everyone)
    expected = [by_hand(params, np.asarray(each, np.float64).reshape(nodes, 12, 6)) for each in h]
    np.testing.assert_allclose(ours.reshape(2, nodes, 12, 6), expected, atol=1e-5)


def test_the_answer_of_some_nodes_alone_is_that_of_all(tiny):
    model, variables = tiny
    whole = decided(model, variables, states())
    np.testing.assert_allclose(
        decided(model, variables, states(), (2, 0)), whole[:, np.array([2, 0])], atol=1e-5
    )


def test_every_node_hears_every_other_one(tiny):
    model, variables = tiny
    nodes = states()
    before = decided(model.copy(rounds=1), variables, nodes)
    for sender in range(3):
        changed = nodes.at[:, sender].set(states(key=9)[:, sender])
        moved = jnp.abs(decided(model.copy(rounds=1), variables, changed) - before).max(
            (0, 2, 3, 4)
        )
        assert (moved > 1e-5).all(), (sender, moved)


def test_rounds_need_no_weights_of_their_own_but_nodes_do(tiny):
    _, variables = tiny
    made = lambda **options: shapes(agnn.SYSTEM, agnn.AGNN(**TINY, **options))  # noqa: E731
    sizes = lambda tree: jax.tree.map(jnp.shape, dict(tree))  # noqa: E731
    assert sizes(made(rounds=1)) == sizes(variables)
    assert made(nodes=2)["params"]["graph"]["conv_fusion"]["kernel"].shape == (3, 3, 8, 8)
    for options in ({"nodes": 1}, {"rounds": 0}):
        with pytest.raises(ValueError, match="messages need 2 nodes and 1 round"):
            made(**options)


def test_a_clip_of_another_length_than_the_graph_is_refused(tiny):
    model, variables = tiny
    with pytest.raises(ValueError, match=r"2 frames for a graph of 3 nodes"):
        model.apply(variables, jnp.zeros((1, 2, 33, 49, 3)))


def test_image_steps_train_the_encoder_alone_and_video_steps_all_but_its_classifier(tiny):
    model, variables = tiny
    clip = agnn.prepare(jnp.asarray(np.stack(frames(3, SIZE)))[None])
    masks = (clip[..., :1] > 0).astype(jnp.float32)

    def moved(clip, batch):
        def value(params):
            answers, _ = model.apply(
                {**variables, "params": params},
                clip,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return agnn.loss(answers, batch)[0]

        gradient = jax.jit(jax.grad(value))(variables["params"])
        classifier = gradient["encoder"].pop("main_classifier")
        parts = {**gradient, "classifier": classifier}
        return {
            k: sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(v)) > 0
            for k, v in parts.items()
        }

    image = moved(clip[:, :1], {"mask": masks[:, 0]})
    assert image == {
        "encoder": True,
        "intra": True,
        "classifier": True,
        "graph": False,
        "head": False,
    }
    video = moved(clip, {"masks": masks})
    assert video == {
        "encoder": True,
        "intra": True,
        "classifier": False,
        "graph": True,
        "head": True,
    }


def test_the_loss_weighs_each_frame_of_the_clip_by_its_own_object():
    masks = jnp.zeros((1, 2, 2, 2, 1)).at[0, 0, 0, 0].set(1.0).at[0, 1, 0].set(1.0)
    unsure = jnp.zeros(masks.shape)
    total, _ = agnn.loss({"frames": unsure}, {"masks": masks})
    np.testing.assert_allclose(total, (4 + 2) * np.log(2) + 2 * 0.8 * 0.5, rtol=1e-6)
    image, _ = agnn.loss({"encoder": unsure}, {"mask": masks[:, 0]})
    np.testing.assert_allclose(image, 0.1 * (4 * np.log(2) + 0.8 * 0.5), rtol=1e-6)
    nothing, _ = agnn.loss({"encoder": unsure}, {"mask": jnp.zeros((1, 2, 2, 1))})
    np.testing.assert_allclose(nothing, 0.1 * (np.log(2) + 0.8 * 0.5), rtol=1e-6)
    with pytest.raises(ValueError, match="make no graph"):
        agnn.loss({"encoder": unsure[:, :1]}, {"masks": masks[:, :1]})


def released(model, variables, video, graphs, shape):
    """The released schedule: whole graphs through the whole network, scale by scale."""
    call = jax.jit(lambda f: jax.nn.sigmoid(model.apply(variables, agnn.prepare(f))["frames"]))
    for row in graphs:
        maps = []
        for scale in SCALES:
            side = tuple(int(n * scale) for n in SIZE)
            small = np.stack([cv2.resize(video.frames[t], side[::-1]) for t in row])
            maps.append(np.asarray(call(small[None]))[0, ..., 0])
        yield [np.mean([agnn.enlarged(m[i], shape) for m in maps], axis=0) for i in range(len(row))]


def test_protocol_equals_the_released_schedule_of_whole_graphs(tiny):
    model, variables = tiny
    video = Video(frames(4))
    ours = list(agnn.segmenter(model, variables, **PROTOCOL, seed=1, batch=2)(video))
    _, chosen = draw_references(4, 2, 128, 1)
    graphs = [[t, *row] for t, row in enumerate(chosen.tolist())]
    expected = released(model, variables, video, graphs, (40, 60))
    for scores, (own, *_) in zip(ours, expected, strict=True):
        assert scores.shape == (40, 60) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, own, atol=1e-5)


def test_shared_graphs_answer_for_all_of_their_frames(tiny, monkeypatch):
    model, variables = tiny
    video, graphs = Video(frames(4)), []
    original = agnn._decide

    def noting(*args, **options):
        graphs.append(options["wanted"])
        return original(*args, **options)

    monkeypatch.setattr(agnn, "_decide", noting)
    ours = list(agnn.segmenter(model, variables, **PROTOCOL, shared=True, seed=2)(video))
    assert graphs == [None] * 4  # two graphs for four frames, on two scales
    order = np.random.default_rng(2).permutation(4)
    rows = np.resize(order, (2, 3)).tolist()
    expected: dict[int, np.ndarray] = {}
    for row, maps in zip(rows, released(model, variables, video, rows, (40, 60)), strict=True):
        for t, scores in zip(row, maps, strict=True):
            expected.setdefault(t, scores)
    for t, scores in enumerate(ours):
        np.testing.assert_allclose(scores, expected[t], atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_a_clip_shorter_than_the_graph_fills_it_with_copies(tiny, count, shared):
    model, variables = tiny
    video = Video(frames(count))
    ours = list(agnn.segmenter(model, variables, **PROTOCOL, shared=shared)(video))
    assert len(ours) == count
    if count == 1:
        (expected,) = released(model, variables, video, [[0, 0, 0]], (40, 60))
        np.testing.assert_allclose(ours[0], expected[0], atol=1e-5)
    tiny_frames = Video(frames(count, (1, 1)))
    for scores in agnn.segmenter(model, variables, **PROTOCOL, shared=shared)(tiny_frames):
        assert scores.shape == (1, 1) and 0 <= scores.min() <= scores.max() <= 1


@pytest.mark.parametrize("shared", [False, True])
def test_any_length_compiles_once_and_encodes_every_frame_once_a_scale(tiny, monkeypatch, shared):
    model, variables = tiny
    seen = {"_encode": 0, "_decide": 0}
    compiled = {name: getattr(agnn, name)._cache_size for name in seen}
    for name in seen:
        original = getattr(agnn, name)

        def counting(*args, _name=name, _original=original, **options):
            seen[_name] += 1
            return _original(*args, **options)

        monkeypatch.setattr(agnn, name, counting)
    segment = agnn.segmenter(model, variables, **PROTOCOL, shared=shared, batch=2, pool=4)
    list(segment(Video(frames(4))))
    before = {name: size() for name, size in compiled.items()}
    seen.update(_encode=0, _decide=0)
    assert len(list(segment(Video(frames(7))))) == 7
    # Two at a time, on two scales: 4 and 3 frames, 7 graphs; or stretches of 4 and 3, 2 and 1.
    assert seen == {"_encode": 2 * (2 + 2), "_decide": 2 * ((1 + 1) if shared else 4)}
    assert {name: size() for name, size in compiled.items()} == before


def test_scales_that_leave_nothing_are_refused(tiny):
    for options in ({"scales": ()}, {"scales": (0.01,)}):
        with pytest.raises(ValueError, match="leaves no picture"):
            agnn.segmenter(*tiny, size=SIZE, **options)


def test_enlarging_keeps_the_corners_as_pytorchs_align_corners():
    ramp = np.float32([[0, 1, 2], [10, 11, 12]])
    large = agnn.enlarged(ramp, (3, 5))
    np.testing.assert_allclose(large[0], [0, 0.5, 1, 1.5, 2], atol=1e-6)
    np.testing.assert_allclose(large[1], [5, 5.5, 6, 6.5, 7], atol=1e-6)
    np.testing.assert_allclose(agnn.enlarged(np.float32([[7]]), (2, 3)), 7.0)
    assert large.dtype == np.float32


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(agnn.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    video = Video(frames(1))
    a, b = (next(agnn.segmenter(m, variables, **PROTOCOL)(video)) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.05


def test_the_recipe_makes_a_network_for_the_clips_it_draws():
    for mode in ("", ":smoke"):
        config = read_recipe(f"agnn{mode}")
        model = get(config.system).model(**model_options(config))
        assert agnn.shapes(model)["frames"][1] == config.data.frames == model.nodes
