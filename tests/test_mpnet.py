"""MP-Net's encoding of flow, protocol and loss; its arithmetic is pinned by tests/parity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.flow_pictures import angle_magnitude
from jaxvos.layers.motion_pattern import between_frames, motion_loss, nearest
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import mpnet
from jaxvos.typing import Video

SIZE = (33, 49)
FRAME = (40, 60)


def video(count: int, size: tuple[int, int] = FRAME) -> Video:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    return Video(frames, [rng.normal(0, 4, (*size, 2)).astype(np.float32) for _ in frames[1:]])


@pytest.fixture(scope="module")
def tiny():
    model = mpnet.MPNet(width=4)
    return model, initialise(mpnet.SYSTEM, model, 0)


@partial(jax.jit, static_argnames=("model", "train"))
def run(model, variables, flow, train=False):
    """Logits and changed statistics for encoded clips [B, T, H, W, 2]."""
    outputs, changed = model.apply(variables, flow, train=train, mutable=["batch_stats"])
    return outputs["motion"], changed


def encoded(*vectors: tuple[float, float], **options) -> np.ndarray:
    """[number of vectors, (angle, magnitude)]"""
    return np.asarray(angle_magnitude(jnp.asarray(vectors)[None], **options)[0])


# --- flow as angle and magnitude ---------------------------------------------------------------


def test_the_angle_is_that_with_the_x_axis_and_does_not_tell_up_from_down():
    angles = encoded((2, 0), (0, 3), (0, -3), (-1, 0), (1, 1), (-1, -1), diagonal=6.0)[:, 0]
    expected = np.pi * np.array([0, 1 / 2, 1 / 2, 1, 1 / 4, 3 / 4])
    np.testing.assert_allclose(angles, expected, atol=1e-6)


def test_the_angle_is_exact_where_a_cosine_would_not_be():
    angle = encoded((1000, 0.1))[0, 0]
    np.testing.assert_allclose(angle, 1e-4, rtol=1e-4)


def test_the_magnitudes_unit_is_a_sixth_of_the_diagonal():
    np.testing.assert_allclose(encoded((3, -4), diagonal=60.0)[0, 1], 0.5, rtol=1e-6)
    own = angle_magnitude(jnp.full((2, 30, 40, 2), 10.0))
    np.testing.assert_allclose(own[..., 1], np.sqrt(200) * 6 / 50, rtol=1e-6)
    each = angle_magnitude(jnp.ones((2, 3, 4, 2)), diagonal=jnp.asarray([1.0, 2.0])[:, None, None])
    np.testing.assert_allclose(each[0, ..., 1], 2 * each[1, ..., 1])


def test_what_stands_still_is_zero_and_no_division_by_it():
    still = angle_magnitude(jnp.asarray([[[0.0, 0.0], [-0.0, 0.0]]]))
    np.testing.assert_array_equal(still, 0)


def test_little_motion_has_no_direction_but_its_length():
    little, more = encoded((-1, 0), (-1.01, 0), diagonal=6.0, still=1.0)
    np.testing.assert_allclose(little, [0, 1], rtol=1e-6)
    np.testing.assert_allclose(more, [np.pi, 1.01], rtol=1e-6)


# --- network and loss --------------------------------------------------------------------------


def test_the_last_frames_flow_is_not_looked_at_but_a_single_frames_is(tiny):
    model, variables = tiny
    flow = jax.random.normal(jax.random.key(0), (2, 3, *SIZE, 2))
    logits, _ = run(model, variables, flow)
    assert logits.shape == (2, 2, 16, 24, 1)
    other, _ = run(model, variables, flow.at[:, 2].add(1.0))
    np.testing.assert_array_equal(other, logits)
    assert between_frames(flow[:, :1]).shape[1] == 1
    alone = run(model, variables, flow[:, :2])[0]  # T = 2: one field, as T = 1 has
    np.testing.assert_allclose(run(model, variables, flow[:, :1])[0], alone, atol=1e-6)


def test_training_moves_the_statistics_and_inference_does_not(tiny):
    model, variables = tiny
    flow = jax.random.normal(jax.random.key(0), (2, 3, *SIZE, 2))
    _, same = run(model, variables, flow)
    jax.tree.map(np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"])
    _, moved = run(model, variables, flow, train=True)
    first = moved["batch_stats"]["motion"]["enc1"]["bn"]["mean"]
    assert np.abs(first).max() > 0


def test_labels_are_the_nearest_at_half_the_size():
    masks = jnp.arange(35.0).reshape(1, 5, 7, 1)
    small = nearest(masks, (2, 3))
    np.testing.assert_array_equal(small[0, ..., 0], [[0, 2, 4], [14, 16, 18]])


def test_loss_is_of_all_frames_but_the_last():
    logits = jnp.zeros((1, 1, 2, 2, 1)).at[0, 0, 0].set(3.0)
    masks = jnp.zeros((1, 2, 4, 4, 1)).at[:, 0].set(1.0)
    expected = (np.log(1 + np.exp(-3)) + np.log(2)) / 2
    total, metrics = mpnet.loss({"motion": logits}, {"masks": masks})
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    np.testing.assert_allclose(motion_loss(logits, masks[:, :1]), expected, rtol=1e-6)
    assert metrics.keys() == {"video_loss"}


def test_still_images_are_refused_since_nothing_moves_in_them():
    with pytest.raises(ValueError, match="image_every=0"):
        mpnet.loss({"motion": jnp.zeros((1, 1, 2, 2, 1))}, {"mask": jnp.zeros((1, 4, 4, 1))})


def test_fields_too_small_to_be_halved_five_times_are_refused(tiny):
    model, _ = tiny
    with pytest.raises(ValueError, match=r"31 x 40 places .* 32 x 32"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 31, 40, 2)))


# --- protocol ----------------------------------------------------------------------------------


def by_hand(model, variables, field: np.ndarray, still: float) -> np.ndarray:
    """Every place by itself: encoded at the frame's size, the nearest ones taken, enlarged."""
    whole = angle_magnitude(jnp.asarray(field), still=still)
    rows, columns = (
        np.floor(np.arange(n) * m / n).astype(int) for n, m in zip(SIZE, FRAME, strict=True)
    )
    small = whole[rows][:, columns][None, None]
    scores = np.asarray(jax.nn.sigmoid(run(model, variables, small)[0]))[0, 0, ..., 0]
    y, x = (np.arange(m) * (n - 1) / (m - 1) for n, m in zip(scores.shape, FRAME, strict=True))
    for axis, places in enumerate((y, x)):
        low = np.minimum(places.astype(int), scores.shape[axis] - 2)
        share = (places - low).reshape(-1, 1) if axis == 0 else places - low
        before, after = scores.take(low, axis), scores.take(low + 1, axis)
        scores = (1 - share) * before + share * after
    return scores


@pytest.mark.parametrize("batch", [1, 3])
def test_protocol_is_the_network_on_each_frames_own_flow(tiny, batch):
    model, variables = tiny
    clip = video(4)
    ours = list(mpnet.segmenter(model, variables, size=SIZE, still=2.0, batch=batch)(clip))
    for t, scores in enumerate(ours):
        field = clip.flow[min(t, 2)]  # the last frame has the one before's
        assert scores.shape == FRAME and scores.dtype == np.float32
        np.testing.assert_allclose(scores, by_hand(model, variables, field, 2.0), atol=1e-5)
    assert np.ptp(ours[0]) > 1e-3
    np.testing.assert_allclose(ours[3], ours[2], atol=1e-6)
    exact = next(mpnet.segmenter(model, variables, size=SIZE, still=0.0)(clip))
    assert np.abs(exact - ours[0]).max() > 1e-4


def test_a_video_twice_as_large_that_moves_twice_as_far_is_seen_alike(tiny):
    model, variables = tiny
    clip = video(2)
    large = [2 * field.repeat(2, axis=0).repeat(2, axis=1) for field in clip.flow]
    double = Video([np.zeros((80, 120, 3), np.uint8)] * 2, large)
    segment = mpnet.segmenter(model, variables, size=(34, 48), still=0.0)
    small, big = next(segment(clip)), next(segment(double))
    np.testing.assert_allclose(big[::79, ::119], small[::39, ::59], atol=1e-5)


def test_any_length_compiles_once(tiny):
    segment = mpnet.segmenter(*tiny, size=SIZE, batch=3)
    list(segment(video(2)))
    compiled = mpnet._moving._cache_size()
    assert len(list(segment(video(7)))) == 7
    assert mpnet._moving._cache_size() == compiled


def test_a_number_is_the_length_of_the_shorter_side():
    assert mpnet.fitting(232, (480, 640)) == (232, 309)
    assert mpnet.fitting(232, (640, 480)) == (309, 232)
    assert mpnet.fitting((232, 424), (480, 640)) == (232, 424)


def test_a_single_frame_and_a_scene_that_stands_still_have_scores(tiny):
    segment = mpnet.segmenter(*tiny, size=SIZE)
    (alone,) = segment(video(1, (1, 1)))
    assert alone.shape == (1, 1) and 0 <= alone <= 1
    still = Video(video(2).frames, [np.zeros((*FRAME, 2), np.float32)])
    assert all(np.isfinite(scores).all() for scores in segment(still))


def test_a_video_without_flow_is_told_how_to_get_it(tiny):
    segment = mpnet.segmenter(*tiny, size=SIZE)
    with pytest.raises(ValueError, match=r"MP-Net.*--flow dis.*--flow FOLDER.*`flow`"):
        next(segment(video(3)._replace(flow=None)))
    with pytest.raises(ValueError, match=r"3 frames and 1 fields of flow: MP-Net .* 2\."):
        next(segment(video(3)._replace(flow=video(2).flow)))


def test_objectness_weighs_each_frames_scores(tiny, tmp_path):
    clip = video(3)
    plain = list(mpnet.segmenter(*tiny, size=SIZE)(clip))
    maps = np.zeros((3, *FRAME))
    for t in range(3):
        maps[t, t * 10 : t * 10 + 10] = 2 * t + 1
        np.save(tmp_path / f"{t:05d}.npy", maps[t])
    ours = mpnet.segmenter(*tiny, size=SIZE, objectness=str(tmp_path))(clip)
    for t, scores in enumerate(ours):
        expected = np.minimum(plain[t] * (maps[t] / (2 * t + 1) + 0.5), 1)
        np.testing.assert_allclose(scores, expected, atol=1e-6)


# --- the rest ----------------------------------------------------------------------------------


def test_gradients_reach_every_level(tiny):
    model, variables = tiny
    flow = jax.random.normal(jax.random.key(1), (2, 2, *SIZE, 2))
    masks = (flow[..., :1] > 0).astype(jnp.float32)

    @jax.jit
    def gradient(params):
        def value(params):
            outputs = model.apply({**variables, "params": params}, flow)
            return mpnet.loss(outputs, {"masks": masks})[0]

        return jax.grad(value)(params)

    moved = jax.tree.map(lambda g: float(jnp.abs(g).sum()), gradient(variables["params"]))
    assert min(part["conv"]["kernel"] for k, part in moved["motion"].items() if k != "score") > 0


def test_each_mode_goes_on_with_a_tenth_of_the_rate_and_of_the_decay():
    first, second, third = (read_recipe(f"mpnet{mode}") for mode in ("", ":second", ":third"))
    assert model_options(first) == model_options(second) == model_options(third)
    for before, after in ((first, second), (second, third)):
        assert after.optimizer.rate == pytest.approx(before.optimizer.rate / 10)
        assert after.optimizer.weight_decay == pytest.approx(before.optimizer.weight_decay / 10)
    assert {c.epochs for c in (first, second, third)} == {9}


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(mpnet.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    flow = jax.random.normal(jax.random.key(0), (2, 3, *SIZE, 2))
    a, b = (jax.nn.sigmoid(run(m, variables, flow)[0]) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.02
