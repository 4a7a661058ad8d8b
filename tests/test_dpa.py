"""DPA's prototypes, references, protocol and stages; its arithmetic is pinned by tests/parity."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvos.checkpoints import METADATA, save_weights
from jaxvos.flow.colour import picture
from jaxvos.inference import fit, to_size
from jaxvos.layers.prototypes import (
    EdgeConv,
    Relation,
    attended,
    correlation_maps,
    neighbours,
    prototypes,
)
from jaxvos.losses import soft_iou
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import shapes
from jaxvos.systems import dpa, pretrained
from jaxvos.typing import Video

TINY = {
    "width": 4,
    "convolutions": (1, 1, 1, 1, 1),
    "squeezed": 8,
    "features": 4,
    "neighbours": 3,
}
SIZE = (64, 32)


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    """Pictures of squares, each of a colour of its own."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (count, 4, 6, 3), np.uint8)
    return [np.repeat(np.repeat(s, 10, 0), 10, 1)[: size[0], : size[1]] for s in squares]


def flows(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    coarse = 3 * rng.standard_normal((count, 4, 6, 2)).astype(np.float32)
    return [np.repeat(np.repeat(c, 10, 0), 10, 1)[: size[0], : size[1]] for c in coarse]


def video(count: int) -> Video:
    return Video(frames(count), flows(count - 1))


def variables_of(model: dpa.DPA, seed: int) -> dict:
    """Weights of a size at which what goes in is felt at the end, which the first ones are not."""
    rng = np.random.default_rng(seed)

    def drawn(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) > 1:
            return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        return path.endswith(("scale", "var")) + 0.1 * rng.uniform(size=shape)

    flat = flatten_dict(shapes(dpa.SYSTEM, model), sep="/")
    return unflatten_dict({p: np.float32(drawn(p, x.shape)) for p, x in flat.items()}, sep="/")


@pytest.fixture(scope="module")
def made():
    model = dpa.DPA(**TINY)
    return model, variables_of(model, 0)


@pytest.fixture(scope="module")
def still():
    model = dpa.DPA(stage="pretrain", **TINY)
    return model, variables_of(model, 1)


@partial(jax.jit, static_argnames="model")
def run(model, variables, pictures, moves):
    return model.apply(variables, pictures, moves)


def clip(count: int) -> tuple[jax.Array, jax.Array]:
    """Prepared frames and pictures of flow [1, T, H, W, 3]."""
    small = np.stack([fit(f, SIZE) for f in frames(count)])
    moves = np.stack([fit(picture(f), SIZE) for f in flows(count)])
    return dpa.prepare(jnp.asarray(small))[None], dpa.prepare_drawn(jnp.asarray(moves))[None]


def test_a_prototype_is_the_mean_feature_by_the_softmax_of_its_channel():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    found = prototypes(jnp.asarray(x))
    for b in range(2):
        places = x[b].reshape(12, 5)
        for n in range(5):
            share = np.exp(places[:, n]) / np.exp(places[:, n]).sum()
            np.testing.assert_allclose(found[b, n], share @ places, rtol=1e-5, atol=1e-6)


def test_no_gradient_goes_through_the_weights_of_prototypes():
    x = jax.random.normal(jax.random.key(0), (1, 2, 3, 4))
    ours = jax.grad(lambda x: prototypes(x)[0, 2, 1])(x)
    share = jax.nn.softmax(x.reshape(6, 4), axis=0)[:, 2].reshape(2, 3)
    np.testing.assert_allclose(ours[0, ..., 1], share, rtol=1e-6)
    assert not np.delete(np.asarray(ours), 1, axis=-1).any()


def test_correlation_is_the_cosine_and_a_vector_of_zeros_gives_0_and_a_finite_gradient():
    rng = np.random.default_rng(0)
    x, vectors = (rng.standard_normal(s).astype(np.float32) for s in ((1, 2, 3, 4), (1, 5, 4)))
    x[0, 1, 2], vectors[0, 3] = 0, 0
    found = correlation_maps(jnp.asarray(x), jnp.asarray(vectors))
    assert not found[0, 1, 2].any() and not found[..., 3].any()
    a, b = x[0, 0, 1], vectors[0, 4]
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(found[0, 0, 1, 4], expected, rtol=1e-5)
    gradient = jax.grad(lambda *p: correlation_maps(*p).sum(), argnums=(0, 1))(x, vectors)
    assert all(np.isfinite(g).all() for g in gradient)


def test_each_vector_is_the_nearest_to_itself_and_others_follow():
    x = jnp.asarray([[[0.0, 0], [3, 0], [1, 0], [0, 10]]])
    np.testing.assert_array_equal(neighbours(x, 3)[0], [[0, 2, 1], [1, 2, 0], [2, 0, 1], [3, 0, 2]])
    assert neighbours(x, 10).shape == (1, 4, 4)  # there are no more


def test_an_edge_is_the_difference_and_then_the_vector_itself_and_the_largest_counts():
    x = jax.random.normal(jax.random.key(0), (2, 6, 3))
    layer = EdgeConv(4, neighbours=3)
    variables = layer.init(jax.random.key(1), x)
    found, kernel = (
        layer.apply(variables, x),
        np.asarray(variables["params"]["conv"]["kernel"][0, 0]),
    )
    x = np.asarray(x)
    for b in range(2):
        for i in range(6):
            near = np.argsort(((x[b] - x[b, i]) ** 2).sum(-1))[:3]
            edges = [np.concatenate([x[b, j] - x[b, i], x[b, i]]) @ kernel for j in near]
            edges = np.stack(edges) / np.sqrt(1 + 1e-5)
            expected = np.where(edges > 0, edges, 0.2 * edges).max(axis=0)
            np.testing.assert_allclose(found[b, i], expected, atol=1e-6)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_relation_sums_up_the_first_ones_vectors_and_adds_them_to_it(normalised):
    a, b = jax.random.normal(jax.random.key(0), (2, 1, 5, 4))
    layer = Relation(normalised)
    variables = layer.init(jax.random.key(1), a, b)
    p = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1, variables["params"])
    found = layer.apply({**variables, "params": p}, a, b)[0]
    a, b = np.asarray(a), np.asarray(b)
    fa, fb = (
        np.maximum(x[0] / np.sqrt(1 + 1e-5) * p["bn"]["scale"] + p["bn"]["bias"], 0) for x in (a, b)
    )
    by = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    share = np.asarray(jax.nn.softmax(by("theta", fa) @ by("phi", fb).T, axis=-1))
    expected = (fa if normalised else a[0]) + by("back", share @ by("g", fa))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_soft_iou_of_worked_numbers_is_taken_of_each_answer_and_sample():
    found = jnp.asarray([[0.5, 0.25], [0.5, 0.75]]).reshape(1, 1, 2, 2)
    mask = jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1)
    expected = 1 - (0.5 / 1.5 + 0.75 / 1.25) / 2
    np.testing.assert_allclose(soft_iou(found, mask), expected, rtol=1e-6)
    twice = soft_iou(jnp.concatenate([found, 0 * found]), jnp.concatenate([mask, 0 * mask]))
    np.testing.assert_allclose(twice, expected / 2, rtol=1e-6)  # empty and empty agree
    gradient = jax.grad(lambda x: soft_iou(x, 0 * mask))(0 * found)
    assert np.isfinite(gradient).all()


def test_the_loss_is_of_the_first_frame_of_a_clip_or_of_the_still_image():
    found = jax.random.uniform(jax.random.key(0), (2, 3, 4, 4))
    masks = (jax.random.uniform(jax.random.key(1), (2, 3, 3, 4, 1)) > 0.5).astype(jnp.float32)
    total, metrics = dpa.loss(found, {"masks": masks})
    np.testing.assert_allclose(total, soft_iou(found, masks[:, 0]))
    assert list(metrics) == ["video_loss"]
    total, metrics = dpa.loss(found, {"mask": masks[:, 1]})
    np.testing.assert_allclose(total, soft_iou(found, masks[:, 1]))
    assert list(metrics) == ["image_loss"]


def test_the_first_frame_is_answered_by_all_references_in_any_order(made):
    model, variables = made
    pictures, moves = clip(3)
    found = run(model, variables, pictures, moves)
    assert found.shape == (1, *SIZE, 4) and found.dtype == jnp.float32
    assert found.min() >= 0 and found.max() <= 1
    turned = run(model, variables, pictures[:, [0, 2, 1]], moves[:, [0, 2, 1]])
    np.testing.assert_allclose(turned, found, atol=1e-5)
    for other in ([0, 1, 1], [0, 2, 2], [1, 0, 2]):
        assert (
            np.abs(run(model, variables, pictures[:, other], moves[:, other]) - found).max() > 1e-4
        )
    swapped = run(model, variables, moves, pictures)
    assert np.abs(swapped - found).max() > 1e-3


def test_a_clip_of_one_frame_is_its_own_reference(made):
    model, variables = made
    pictures, moves = clip(1)
    twice = (jnp.concatenate([x] * 3, axis=1) for x in (pictures, moves))
    np.testing.assert_allclose(
        run(model, variables, pictures, moves), run(model, variables, *twice), atol=1e-6
    )


def test_references_teach_the_keys_and_nothing_before_them(made):
    model, variables = made
    pictures, moves = clip(2)

    @jax.jit
    def gradient(params, shown):
        def keys_of(params):
            tree = {**variables, "params": params}
            return sum((k**2).sum() for k in model.apply(tree, *shown, method="remember"))

        return jax.grad(keys_of)(params)

    found = flatten_dict(gradient(variables["params"], (pictures, moves)), sep="/")
    taught = {path for path, value in found.items() if np.abs(value).max() > 0}
    assert taught == {
        f"{s}/recall/key/{leaf}" for s in ("rgb", "flow") for leaf in ("kernel", "bias")
    }


def test_a_black_clip_gives_no_nan(made):
    model, variables = made
    zeros = jax.tree.map(np.zeros_like, variables["params"])
    nothing = jnp.zeros((1, 3, *SIZE, 3))
    assert np.isfinite(run(model, {**variables, "params": zeros}, nothing, nothing)).all()


def test_inter_modality_attention_has_weights_either_way_and_counts_where_it_is_on(made):
    model, variables = made
    both = model.copy(inter_modality=True)
    same = jax.tree.map(
        lambda a, b: a.shape == b.shape, *(shapes(dpa.SYSTEM, m) for m in (model, both))
    )
    assert all(jax.tree.leaves(same))
    pictures, moves = clip(3)
    found, other = (run(m, variables, pictures, moves) for m in (model, both))
    assert np.abs(found - other).max() > 1e-3
    params = dict(variables["params"])
    for dam in ("dam4", "dam5"):
        params[dam] = jax.tree.map(lambda x: 2 * x, params[dam])
        changed = {**variables, "params": params}
        np.testing.assert_array_equal(run(model, changed, pictures, moves), found)
        now = run(both, changed, pictures, moves)
        assert np.abs(now - other).max() > 1e-4
        other = now


def test_the_pretraining_looks_at_the_first_picture_alone(still):
    model, variables = still
    pictures, moves = clip(2)
    found = run(model, variables, pictures, moves)
    other = run(model, variables, pictures[:, [0, 0]], 0 * moves)
    np.testing.assert_array_equal(other, found)
    other = run(model, variables, pictures[:, [1, 0]], moves)
    assert np.abs(other - found).max() > 1e-4
    assert not any("flow" in path for path in flatten_dict(variables, sep="/"))


def test_both_streams_start_from_the_pretrainings_weights(made, still):
    found = dpa.started_from(still[1], made[1])
    found, theirs, ours = (flatten_dict(tree, sep="/") for tree in (found, still[1], made[1]))
    for path, value in theirs.items():
        np.testing.assert_array_equal(found[path], value)
        twin = re.sub("/rgb/", "/flow/", path)
        np.testing.assert_array_equal(found[twin], value)
    new = ("fuse", "recall/", "/can")
    for path in ours.keys() - theirs.keys():
        of_rgb = re.sub("/flow/", "/rgb/", path)
        kept = theirs.get(of_rgb, ours[path])
        np.testing.assert_array_equal(found[path], kept)
        assert of_rgb in theirs or any(name in path for name in new), path
    assert "params/flow/encoder/block1_conv1/kernel" in found.keys() - theirs.keys()


def test_a_run_starts_from_a_pretrainings_file_and_goes_on_with_its_own(made, still, tmp_path):
    of_video, file = variables_of(made[0], 5), tmp_path / "weights.safetensors"
    for variables, expected in (
        (still[1], dpa.started_from(still[1], made[1])),
        (of_video, of_video),  # the flow's stream is not the pictures' again
    ):
        save_weights(
            file, variables, dict.fromkeys(METADATA, "") | {"system": "dpa", "options": "{}"}
        )
        found = pretrained(file, "dpa", made[1])
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_weights_that_are_no_pretrainings_are_refused(made, still):
    odd = unflatten_dict({"params/rgb/other/kernel": np.zeros(3)}, sep="/")
    with pytest.raises(ValueError, match=r"no params/rgb/other/kernel of shape \(3,\)"):
        dpa.started_from(odd, made[1])


def by_hand(model, variables, whole, references):
    """The released schedule, one frame after the other."""
    total = len(whole.frames)
    drawn = [fit(picture(f), SIZE) for f in whole.flow]
    drawn.append(drawn[-1] if drawn else np.full((*SIZE, 3), 255, np.uint8))
    small = [fit(f, SIZE) for f in whole.frames]
    chosen = [i * (total // references) for i in range(references)]
    for t in range(total):
        pictures, moves = (np.stack([x[t], *(x[i] for i in chosen)]) for x in (small, drawn))
        pictures = dpa.prepare(jnp.asarray(pictures))[None]
        moves = dpa.prepare_drawn(jnp.asarray(moves))[None]
        scores = to_size(run(model, variables, pictures, moves)[0, ..., 3], (40, 60))
        yield (scores - scores.min()) / (scores.max() - scores.min())


@pytest.mark.parametrize("count", [5, 1])
def test_protocol_is_the_released_schedule_also_of_a_clip_shorter_than_the_references(made, count):
    segment = dpa.segmenter(*made, size=SIZE, references=2, batch=2)
    ours = list(segment(video(count)))
    for scores, expected in zip(ours, by_hand(*made, video(count), 2), strict=True):
        assert scores.shape == (40, 60) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-3)
        assert scores.min() == 0 and scores.max() == pytest.approx(1, abs=1e-5)


def test_scores_that_are_not_stretched_are_the_networks(made):
    raw, wide = (
        next(dpa.segmenter(*made, size=SIZE, references=2, stretch=s, batch=2)(video(2)))
        for s in (False, True)
    )
    np.testing.assert_allclose(wide, dpa.stretched(raw), atol=1e-6)
    assert raw.min() > 0 and raw.max() < 1
    assert not dpa.stretched(np.full((2, 2), 0.7, np.float32)).any()


def test_references_are_read_once_a_video_and_any_length_compiles_once(made):
    class Counted(list):
        read = 0

        def __getitem__(self, t):
            type(self).read += 1
            return super().__getitem__(t)

        def __iter__(self):
            return (self[t] for t in range(len(self)))

    segment = dpa.segmenter(*made, size=SIZE, references=2, batch=2)
    list(segment(video(2)))
    compiled = dpa._answer._cache_size(), dpa._remember._cache_size()
    whole = video(7)
    assert len(list(segment(whole._replace(frames=Counted(whole.frames))))) == 7
    assert (dpa._answer._cache_size(), dpa._remember._cache_size()) == compiled
    assert Counted.read == 7 + 2


def test_a_single_frame_and_a_still_scene_have_finite_scores_and_no_frame_none(made):
    segment = dpa.segmenter(*made, size=SIZE, references=2, batch=2)
    (single,) = segment(Video(frames(1)))
    (alone,) = segment(Video(frames(1), []))
    np.testing.assert_array_equal(single, alone)
    first, _ = segment(Video(frames(1) * 2, [np.zeros((40, 60, 2), np.float32)]))
    np.testing.assert_allclose(first, single, atol=1e-4)
    assert np.isfinite(single).all() and not list(segment(Video([])))


def test_the_pretrainings_network_segments_without_flow(still):
    segment = dpa.segmenter(*still, size=SIZE, batch=2)
    ours = list(segment(Video(frames(3))))
    pictures, moves = clip(3)
    for t, scores in enumerate(ours):
        expected = run(*still, pictures[:, [t, t]], 0 * moves[:, :2])[0, ..., 3]
        expected = dpa.stretched(to_size(expected, (40, 60)))
        np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_what_cannot_be_done_is_said(made):
    with pytest.raises(ValueError, match=r"no optical flow, which DPA looks at.*--flow dis"):
        next(dpa.segmenter(*made, size=SIZE)(Video(frames(3))))
    with pytest.raises(ValueError, match="at least 32 x 32"):
        dpa.segmenter(*made, size=(16, 64))
    with pytest.raises(ValueError, match="references=0"):
        dpa.segmenter(*made, references=0)
    with pytest.raises(ValueError, match=r"no stage 'test'\. There are: video, pretrain"):
        shapes(dpa.SYSTEM, dpa.DPA(stage="test"))


def test_flow_is_drawn_by_the_colour_wheel_and_only_scaled():
    flow = flows(1)[0]
    off = np.abs(dpa.prepare_flow(jnp.asarray(flow)) - picture(flow) / np.float32(255))
    assert off.max() < 1.1 / 255 and np.mean(off > 0.1 / 255) < 0.01
    assert (dpa.prepare_flow(jnp.zeros((2, 4, 5, 2))) == 1).all()


def test_attention_sums_values_up_by_the_softmax_over_keys():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, n, 3)) for i, n in enumerate((2, 4, 4)))
    expected = jax.nn.softmax(q[0] @ k[0].T, axis=-1) @ v[0]
    np.testing.assert_allclose(attended(q, k, v)[0], expected, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(made):
    model, variables = made
    half = model.copy(dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(shapes(dpa.SYSTEM, half))} == {jnp.dtype("float32")}
    a, b = (run(m, variables, *clip(3)) for m in (model, half))
    assert b.dtype == jnp.float32 and 0 < np.abs(a - b).max() < 0.1


def test_recipes_train_the_published_networks():
    options = {
        mode: model_options(read_recipe(f"dpa{mode}")) for mode in ("", ":video", ":pretrain")
    }
    assert dpa.DPA(**options[""]) == dpa.DPA(**options[":video"]) == dpa.DPA()
    assert dpa.DPA(**options[":pretrain"]) == dpa.DPA(stage="pretrain")
    recipe = read_recipe("dpa:pretrain")
    assert (recipe.data.images, recipe.data.image_every) == ("duts", 1)
