"""DFNet's modules, protocol and loss; its arithmetic is pinned by tests/parity."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.mean_field import CRF, mean_field
from jaxvos.system import initialise, shapes
from jaxvos.systems import dfnet
from jaxvos.typing import Video

TINY = {"depths": (1, 1, 1, 1), "width": 4, "branch": 8, "features": 8, "groups": 3}
SIZE = (33, 49)
SETTINGS = CRF(1.5, 0.8, 4.0, 0.8, 1.5, 3)


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    """Pictures of squares, each of a colour of its own."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (count, 4, 6, 3), np.uint8)
    return [np.repeat(np.repeat(s, 10, 0), 10, 1)[: size[0], : size[1]] for s in squares]


@pytest.fixture(scope="module")
def tiny():
    """With groups that find different features, which at first they hardly do."""
    model = dfnet.DFNet(**TINY)
    variables = initialise(dfnet.SYSTEM, model, 0)
    for collection, module in (("batch_stats", "dfm"), ("params", "atm"), ("params", "proj")):
        part = jax.tree.map(lambda leaf: 8 * leaf, variables[collection][module])
        variables[collection] = {**variables[collection], module: part}
    return model, variables


@partial(jax.jit, static_argnames=("model", "train"))
def run(model, variables, pictures, train=False):
    """Outputs and changed statistics for B clips [B, N, H, W, 3] uint8."""
    prepared = dfnet.prepare(pictures)
    return model.apply(variables, prepared, train=train, mutable=["batch_stats"])


def clip(count: int) -> jax.Array:
    return jnp.stack([dfnet.fit(f, SIZE) for f in frames(count)])[None]


def features(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_prepared_pictures_are_rgb_of_imagenets_mean_and_deviation():
    red = jnp.asarray([[[[255, 0, 0]]]], jnp.uint8)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(dfnet.prepare(red)[0, 0, 0], expected, rtol=1e-5)


def test_a_groups_scores_are_one_distribution_over_all_frames(tiny):
    model, variables = tiny
    maps = 3 * features(2, 4, 5, 6, 8)
    scores, found = model.apply(variables, maps, method="discriminate")
    np.testing.assert_allclose(scores.sum(axis=(1, 2, 3)), 1, rtol=1e-5)
    assert np.ptp(scores.sum(axis=(2, 3))) > 0.01  # not one over each frame
    by_hand = sum(
        scores[1, n, y, x, 2] * maps[1, n, y, x] for n, y, x in np.ndindex(*maps.shape[1:4])
    )
    np.testing.assert_allclose(found[1, 2], by_hand, atol=1e-5)


def test_training_moves_the_scoring_weights_towards_the_mean_of_what_was_found(tiny):
    model, variables = tiny
    model = model.copy(momentum=0.75)
    maps = features(2, 3, 5, 6, 8)
    (scores, found), changed = model.apply(
        variables, maps, True, method="discriminate", mutable=["batch_stats"]
    )
    old = variables["batch_stats"]["dfm"]["W"]
    still, _ = model.apply(variables, maps, method="discriminate")
    np.testing.assert_allclose(scores, still)  # the forward pass saw the old ones
    moved = changed["batch_stats"]["dfm"]["W"]
    np.testing.assert_allclose(moved, 0.75 * old + 0.25 * found.mean(0).T, atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_the_scoring_weights_are_no_parameters_and_stay_at_inference(tiny):
    model, variables = tiny
    assert "dfm" not in variables["params"]
    _, changed = run(model, variables, clip(2))
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


def test_frames_in_another_order_have_the_same_masks(tiny):
    model, variables = tiny
    pictures = clip(3)
    masks = run(model, variables, pictures)[0]["frames"][0]
    turned = run(model, variables, pictures[:, jnp.asarray([2, 0, 1])])[0]["frames"][0]
    np.testing.assert_allclose(turned, masks[jnp.asarray([2, 0, 1])], atol=1e-5)
    alone = run(model, variables, jnp.concatenate([pictures[:, :1]] * 3, 1))[0]["frames"][0]
    assert np.abs(alone[0] - masks[0]).max() > 1e-4  # the others count


def test_copies_of_a_picture_train_as_the_picture_alone_does(tiny):
    model, variables = tiny
    one = clip(1)
    answer, changed = run(model, variables, one, train=True)
    answers, changed_too = run(model, variables, jnp.concatenate([one] * 2, axis=1), train=True)
    for frame in answers["frames"][0]:  # normalised by a few places: rounding grows
        np.testing.assert_allclose(frame, answer["frames"][0, 0], atol=1e-3)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-3), changed_too, changed)


def test_videos_of_a_batch_do_not_see_each_other(tiny):
    model, variables = tiny
    pictures = clip(4).reshape(2, 2, *SIZE, 3)
    both = run(model, variables, pictures)[0]["frames"]
    for video, expected in zip(pictures, both, strict=True):
        ours = run(model, variables, video[None])[0]["frames"][0]
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def by_hand(q: np.ndarray, logits: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """One mean field update, place by place."""
    total = np.array(logits)
    for i in np.ndindex(*q.shape[:2]):
        weights = np.zeros((2, *q.shape[:2], 1))
        for j in np.ndindex(*q.shape[:2]):
            if i != j:
                place = ((np.array(i) - j) ** 2).sum()
                colour = ((guide[i] - guide[j]) ** 2).sum()
                weights[0][j] = np.exp(-place / (2 * 4.0**2) - colour / (2 * 0.8**2))
                weights[1][j] = np.exp(-place / (2 * 1.5**2))
        messages = (weights * q).sum(axis=(1, 2)) / weights.sum(axis=(1, 2))
        total[i] += 1.5 * messages[0] + 0.8 * messages[1]
    return np.exp(total) / np.exp(total).sum(-1, keepdims=True)


def test_the_crf_passes_the_messages_of_all_other_places():
    logits, guide = np.asarray(features(4, 5, 3)), np.asarray(features(4, 5, 3, seed=1))
    results = mean_field(jnp.asarray(logits), jnp.asarray(guide), SETTINGS)
    assert len(results) == 4
    for before, after in pairwise(results):
        np.testing.assert_allclose(after, by_hand(np.asarray(before), logits, guide), atol=1e-5)


def test_a_crf_without_weight_leaves_the_attention_and_one_group_takes_all():
    logits, guide = features(4, 5, 3), features(4, 5, 3, seed=1)
    free = SETTINGS._replace(colour_weight=0.0, near_weight=0.0)
    np.testing.assert_allclose(
        mean_field(logits, guide, free)[-1], jax.nn.softmax(logits), atol=1e-6
    )
    one = mean_field(logits[..., :1], jnp.ones_like(guide), SETTINGS)[-1]
    np.testing.assert_allclose(one, 1)
    alone = mean_field(logits[:1, :1], guide[:1, :1], SETTINGS)[-1]
    np.testing.assert_allclose(alone, jax.nn.softmax(logits[:1, :1]), atol=1e-6)


def test_narrow_kernels_take_the_mean_of_the_nearest():
    logits = features(4, 5, 3)
    narrow = SETTINGS._replace(colour_weight=0.0, near_weight=1.0, near=0.1, iterations=1)
    q, after = mean_field(logits, jnp.ones((4, 5, 3)), narrow)
    around = (q[0, 2] + q[2, 2] + q[1, 1] + q[1, 3]) / 4
    np.testing.assert_allclose(after[1, 2], jax.nn.softmax(logits[1, 2] + around), atol=1e-5)


def test_guides_are_means_around_the_pixels_that_the_features_lie_on():
    ramp = jnp.broadcast_to(jnp.arange(49.0)[None, :, None], (33, 49, 3))
    small = dfnet.guides(ramp[None, None], (5, 7))
    assert small.shape == (1, 1, 5, 7, 3)
    np.testing.assert_allclose(small[0, 0, 2, 1:-1, 0], [8, 16, 24, 32, 40], atol=1e-4)
    stripes = (jnp.arange(49) % 2).astype(jnp.float32)[None, :, None]
    stripes = dfnet.guides(jnp.broadcast_to(stripes, (33, 49, 3)), (5, 7))
    np.testing.assert_allclose(stripes[:, 1:-1], 0.5, atol=0.02)
    assert dfnet.guides(jnp.ones((1, 8, 3)), (1, 1)).item(0) == pytest.approx(1)


def test_loss_is_the_mean_over_pixels_and_frames_of_clips_and_of_copies():
    logits = jnp.zeros((1, 2, 2, 2, 1)).at[0, 0].set(3.0)
    masks = jnp.ones(logits.shape)
    expected = (np.log(1 + np.exp(-3)) + np.log(2)) / 2
    outputs = {"frames": logits, "scores": jnp.float32(7)}
    total, metrics = dfnet.loss(outputs, {"masks": masks})
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert metrics["score_places"] == 7 and "video_loss" in metrics
    total, metrics = dfnet.loss(outputs, {"mask": masks[:, 0]})
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert "image_loss" in metrics


def test_the_places_that_scores_rest_on_are_counted(tiny):
    model, variables = tiny
    flat = {"dfm": {"W": jnp.zeros((8, 3))}}
    even = {**variables, "batch_stats": {**variables["batch_stats"], **flat}}
    assert run(model, even, clip(2))[0]["scores"] == pytest.approx(2 * 5 * 7, rel=1e-5)


def test_gradients_reach_every_part_but_not_the_scoring_weights(tiny):
    model, variables = tiny
    pictures = dfnet.prepare(clip(2))
    masks = (pictures[..., :1] > 0).astype(jnp.float32)

    @jax.jit
    def gradient(variables):
        def value(variables):
            return dfnet.loss(model.apply(variables, pictures), {"masks": masks})[0]

        return jax.grad(value)(variables)

    norms = {
        k: float(sum(jnp.abs(g).sum() for g in jax.tree.leaves(v)))
        for k, v in gradient(variables)["params"].items()
    }
    assert norms.keys() == {"encoder", "proj", "atm", "gate_new", "gate_f", "head"}
    assert min(norms.values()) > 0


def test_a_frame_takes_the_place_of_the_nearest_of_the_spread_ones():
    company = dfnet.together_with(9, 3)  # spread: 0, 4, 8
    assert company[0] == [4, 8] and company[1] == [4, 8] and company[3] == [0, 8]
    assert company[4] == [0, 8] and company[8] == [0, 4]
    assert dfnet.together_with(2, 5) == [[1], [0]]
    assert dfnet.together_with(1, 5) == [[]]
    with pytest.raises(ValueError, match="frames=0"):
        dfnet.together_with(3, 0)


@pytest.mark.parametrize("batch", [1, 2])
def test_protocol_answers_as_the_whole_network_on_the_same_frames(tiny, batch):
    model, variables = tiny
    video = Video(frames(5))
    ours = list(dfnet.segmenter(model, variables, size=SIZE, frames=3, batch=batch)(video))
    pictures = clip(5)[0]
    for t, others in enumerate(dfnet.together_with(5, 3)):
        together = pictures[jnp.asarray([t, *others])][None]
        logits = run(model, variables, together)[0]["frames"][0, 0, ..., 0]
        expected = dfnet.to_size(jax.nn.sigmoid(logits), (40, 60))
        assert ours[t].shape == (40, 60) and ours[t].dtype == np.float32
        np.testing.assert_allclose(ours[t], expected, atol=1e-5)


def test_any_length_compiles_once_and_encodes_every_frame_once(tiny, monkeypatch):
    model, variables = tiny
    encode, calls = dfnet._encode, []
    monkeypatch.setattr(dfnet, "_encode", lambda *args: calls.append(1) or encode(*args))
    segment = dfnet.segmenter(model, variables, size=SIZE, frames=3, batch=2)
    list(segment(Video(frames(4))))
    compiled = encode._cache_size(), dfnet._decide._cache_size()
    calls.clear()
    assert len(list(segment(Video(frames(8))))) == 8
    assert len(calls) == 2 + 3  # three spread frames and five others, two at a time
    assert (encode._cache_size(), dfnet._decide._cache_size()) == compiled


@pytest.mark.parametrize("count", [1, 2])
def test_videos_shorter_than_the_company_work(tiny, count):
    model, variables = tiny
    results = list(dfnet.segmenter(model, variables, size=SIZE)(Video(frames(count, (1, 1)))))
    assert [r.shape for r in results] == [(1, 1)] * count
    assert all(0 <= r.min() <= r.max() <= 1 for r in results)


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(dfnet.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    a, b = (jax.nn.sigmoid(run(m, variables, clip(2))[0]["frames"]) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.02
