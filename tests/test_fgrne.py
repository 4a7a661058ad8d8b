"""FGRNE's way through a clip, its protocol and loss; its arithmetic is pinned by tests/parity."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import fgrne
from jaxvos.typing import Video

TINY = {"depths": (1, 1, 1, 1), "width": 4, "branch": 8, "flow_hidden": 4, "hidden": 8}
SIZE = (33, 49)


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def video(count: int, size: tuple[int, int] = (40, 60)) -> Video:
    """Random pictures with a random but smooth flow."""
    rng = np.random.default_rng(1)
    flow = [np.float32(np.ones((*size, 1)) * 9 * rng.standard_normal(2)) for _ in range(count)]
    return Video(frames(count, size), flow)


def stirred(variables):
    """With a refinement that does something, which at first it does not."""
    params = dict(variables["params"])
    kernel = params["flow_out"]["kernel"]
    kernel = jax.random.normal(jax.random.key(3), kernel.shape)
    params["flow_out"] = {**params["flow_out"], "kernel": kernel}
    return {**variables, "params": params}


@pytest.fixture(scope="module")
def tiny():
    model = fgrne.FGRNE(**TINY)
    return model, stirred(initialise(fgrne.SYSTEM, model, 0))


@partial(jax.jit, static_argnames="model")
def run(model, variables, pictures, flow):
    """Logits [H, W] of the last of T frames [T, H, W, 3] uint8 with flow [T, H, W, 2]."""
    outputs = model.apply(variables, fgrne.prepare(pictures)[None], flow[None])
    return outputs["reference"][0, ..., 0]


def clip(video: Video) -> tuple[jax.Array, jax.Array]:
    pictures = jnp.stack([fgrne.fit(f, SIZE) for f in video.frames])
    return pictures, jnp.stack([fgrne.fit_flow(f, SIZE) for f in video.flow])


def maps(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_without_motion_features_stay_where_they_are(tiny):
    model, variables = tiny
    features, still = maps(1, 4, 5, 7, 8), jnp.zeros((1, 3, 5, 7, 2))
    silent = {**variables, "params": dict(variables["params"])}
    silent["params"]["flow_out"] = jax.tree.map(jnp.zeros_like, variables["params"]["flow_out"])
    refined, _ = model.apply(silent, still, method="refine")
    np.testing.assert_array_equal(refined, 0)
    np.testing.assert_allclose(model.apply(silent, features, refined, method="gather"), features)
    stirred, _ = model.apply(variables, maps(1, 3, 5, 7, 2), method="refine")
    assert np.abs(stirred - maps(1, 3, 5, 7, 2)).max() > 0.1


def test_each_former_frames_features_move_along_its_own_flow_with_a_zero_border(tiny):
    model, variables = tiny
    features = maps(1, 3, 5, 7, 8)
    near, far = jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, -2.0])
    flow = jnp.broadcast_to(jnp.stack([near, far])[None, :, None, None], (1, 2, 5, 7, 2))
    gathered = model.apply(variables, features, flow, method="gather")[0]
    np.testing.assert_allclose(gathered[0, 2:], features[0, 0, :-2], atol=1e-6)
    np.testing.assert_allclose(gathered[1, :, :-1], features[0, 1, :, 1:], atol=1e-6)
    np.testing.assert_array_equal(gathered[2], features[0, 2])
    assert not gathered[0, :2].any() and not gathered[1, :, -1:].any()


def test_flow_is_refined_from_near_to_far(tiny):
    model, variables = tiny
    flow = maps(1, 3, 5, 7, 2)
    refined, _ = model.apply(variables, flow, method="refine")
    far, _ = model.apply(variables, flow.at[:, 2].add(1.0), method="refine")
    near, _ = model.apply(variables, flow.at[:, 0].add(1.0), method="refine")
    np.testing.assert_array_equal(far[:, :2], refined[:, :2])
    assert np.abs(near[:, 2] - refined[:, 2]).max() > 1e-4


def test_flow_to_the_next_frame_becomes_flow_back_on_the_features_grid():
    flow = jnp.broadcast_to(jnp.asarray([16.0, -8.0]), (1, 1, 33, 49, 2))
    back = fgrne.backwards(flow, (5, 7))
    np.testing.assert_allclose(back, np.broadcast_to([-2.0, 1.0], (1, 1, 5, 7, 2)), rtol=1e-5)
    zoom = 0.2 * jnp.arange(49.0)[None, :, None] * jnp.asarray([[[1.0, 0.0]]])
    back = fgrne.backwards(jnp.broadcast_to(zoom, (33, 49, 2)), (5, 7))[..., 0]
    # What is at x now was at x / 1.2.
    np.testing.assert_allclose(back, np.broadcast_to(-np.arange(7) / 6, (5, 7)), atol=1e-4)


def test_of_a_clip_the_last_frames_flow_is_not_read_and_the_others_are(tiny):
    model, variables = tiny
    pictures, flow = clip(video(3))
    logits = run(model, variables, pictures, flow)
    np.testing.assert_array_equal(run(model, variables, pictures, flow.at[2].add(9.0)), logits)
    for t in (0, 1):
        assert np.abs(run(model, variables, pictures, flow.at[t].add(9.0)) - logits).max() > 1e-4


def test_a_whole_scene_that_moves_is_seen_as_one_that_stands_still(tiny):
    """Features and flow of a camera that pans: moved along flow, they all lie where the last do."""
    model, variables = tiny
    scene = maps(5, 30, 8)
    views = jnp.stack([scene[:, 3 * t : 3 * t + 20] for t in range(3)])[
        None
    ]  # the camera goes right
    back = jnp.broadcast_to(jnp.asarray([3.0, 0.0]), (1, 2, 5, 20, 2))
    chained = fgrne.chained_flow(back)
    gathered = model.apply(variables, views, chained, method="gather")[0]
    for t in (0, 1):
        np.testing.assert_allclose(gathered[t, :, :14], gathered[2, :, :14], atol=1e-5)


def test_a_single_frame_is_one_step_of_the_second_lstm_and_needs_no_flow(tiny):
    model, variables = tiny
    pictures, flow = clip(video(1))
    logits = run(model, variables, pictures, flow)
    np.testing.assert_array_equal(run(model, variables, pictures, flow + 5), logits)
    features = model.apply(variables, fgrne.prepare(pictures), method="encode")
    x, params = features, variables["params"]
    z = (
        x_conv(params["feat_lstm"]["x_conv"]["kernel"], x)
        + params["feat_lstm"]["bias"][None, None, None]
    )
    i, _, o, g = jnp.split(z, 4, axis=-1)
    h = nn.sigmoid(o) * jnp.tanh(nn.sigmoid(i) * jnp.tanh(g))
    expected = x_conv(params["reg"]["kernel"], h) + params["reg"]["bias"][None, None, None]
    np.testing.assert_allclose(logits[::8, ::8], expected[0, ..., 0], atol=1e-5)


def x_conv(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Halves(nn.Module):
    """A host with two convolutions at half the size."""

    features: int

    @nn.compact
    def __call__(self, pictures: jax.Array, train: bool) -> jax.Array:
        return nn.Conv(self.features, (3, 3), strides=2, padding=1, name="only")(pictures)


def test_any_module_that_gives_features_is_a_host():
    model = fgrne.FGRNE(**TINY, host=Halves(6))
    variables = initialise(fgrne.SYSTEM, model, 0)
    assert variables["params"]["encoder"].keys() == {"only"}
    assert variables["params"]["feat_lstm"]["x_conv"]["kernel"].shape[2] == 6
    results = list(fgrne.segmenter(model, variables, size=SIZE, former=1)(video(2)))
    assert [r.shape for r in results] == [(40, 60)] * 2


def test_peepholes_are_learned_for_one_size():
    model = fgrne.FGRNE(**TINY, peephole=(41, 57))
    made = shapes(fgrne.SYSTEM, model)["params"]["feat_lstm"]
    assert made["peephole_o"].shape == (6, 8, 8)


def test_only_the_last_frames_mask_counts():
    logits = jnp.zeros((1, 2, 2, 1)).at[0, 0].set(3.0)
    masks = jnp.zeros((1, 3, 2, 2, 1)).at[:, -1].set(1.0)
    expected = (np.log(1 + np.exp(-3)) + np.log(2)) / 2
    total, metrics = fgrne.loss({"reference": logits}, {"masks": masks})
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert metrics.keys() == {"video_loss"}
    total, metrics = fgrne.loss({"reference": logits}, {"mask": masks[:, -1]})
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert metrics.keys() == {"image_loss"}


def test_gradients_reach_the_refinement_through_the_warp(tiny):
    model, variables = tiny
    pictures, flow = clip(video(3))
    mask = jnp.ones((1, *SIZE, 1))

    @jax.jit
    def gradient(params):
        def value(params):
            inputs = fgrne.prepare(pictures)[None], flow[None]
            outputs = model.apply({**variables, "params": params}, *inputs)
            return fgrne.loss(outputs, {"mask": mask})[0]

        return jax.grad(value)(params)

    norms = {
        k: float(sum(jnp.abs(g).sum() for g in jax.tree.leaves(v)))
        for k, v in gradient(variables["params"]).items()
    }
    assert norms.keys() == {"encoder", "flow_lstm", "flow_out", "feat_lstm", "reg"}
    assert min(norms.values()) > 0


@pytest.mark.parametrize(("former", "batch"), [(2, 1), (2, 3), (0, 1)])
def test_protocol_answers_as_the_whole_network_on_each_window(tiny, former, batch):
    model, variables = tiny
    whole = video(4)
    ours = list(fgrne.segmenter(model, variables, size=SIZE, former=former, batch=batch)(whole))
    pictures, flow = clip(whole)
    for t, scores in enumerate(ours):
        times = jnp.asarray([max(i, 0) for i in range(t - former, t + 1)])
        moving = jnp.asarray([i >= 0 for i in range(t - former, t + 1)]).reshape(-1, 1, 1, 1)
        logits = run(model, variables, pictures[times], flow[times] * moving)
        assert scores.shape == (40, 60) and scores.dtype == np.float32
        expected = fgrne.to_size(jax.nn.sigmoid(logits), (40, 60))
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_any_length_compiles_once_and_encodes_every_frame_once(tiny, monkeypatch):
    model, variables = tiny
    encode, calls = fgrne._encode, []
    monkeypatch.setattr(fgrne, "_encode", lambda *args: calls.append(1) or encode(*args))
    segment = fgrne.segmenter(model, variables, size=SIZE, former=2, batch=2)
    list(segment(video(2)))
    compiled = encode._cache_size(), fgrne._decide._cache_size()
    calls.clear()
    assert len(list(segment(video(7)))) == 7
    assert len(calls) == 4
    assert (encode._cache_size(), fgrne._decide._cache_size()) == compiled


class Pans:
    """Flow of a camera that pans, between any two frames."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, t: int) -> np.ndarray:
        return self.between(t, t + 1)

    def between(self, t: int, u: int) -> np.ndarray:
        return np.full((40, 60, 2), (u - t) * np.float32([6, -4]))


def test_flow_that_is_estimated_directly_serves_as_the_chained_one(tiny):
    model, variables = tiny
    whole = Video(frames(4), Pans())
    options = {"size": SIZE, "former": 2, "batch": 2}
    chained = list(fgrne.segmenter(model, variables, **options)(whole))
    direct = list(fgrne.segmenter(model, variables, **options, direct=True)(whole))
    np.testing.assert_allclose(direct, chained, atol=1e-4)
    still = list(fgrne.segmenter(model, variables, **options)(Video(whole.frames, still_flow(3))))
    assert np.abs(np.stack(still) - chained)[1:].max() > 1e-3
    with pytest.raises(ValueError, match=r"direct=True .* neighbours alone: give --flow dis"):
        next(fgrne.segmenter(model, variables, direct=True)(video(2)))


def still_flow(count: int) -> list[np.ndarray]:
    return [np.zeros((40, 60, 2), np.float32)] * count


def test_nothing_of_later_frames_is_looked_at(tiny):
    model, variables = tiny
    segment = fgrne.segmenter(model, variables, size=SIZE, former=2)
    whole = video(4)
    first = Video(whole.frames[:2], whole.flow[:1])
    for short, long in zip(segment(first), segment(whole), strict=False):
        np.testing.assert_array_equal(short, long)


def test_a_clip_of_one_frame_of_one_pixel_works(tiny):
    model, variables = tiny
    (scores,) = fgrne.segmenter(model, variables, size=SIZE)(video(1, (1, 1)))
    assert scores.shape == (1, 1) and 0 <= scores <= 1


def test_a_video_without_flow_is_told_how_to_get_it(tiny):
    segment = fgrne.segmenter(*tiny, size=SIZE)
    with pytest.raises(ValueError, match=r"--flow dis.*--flow FOLDER.*`flow`"):
        next(segment(Video(frames(3))))
    with pytest.raises(ValueError, match=r"3 frames and 1 fields of flow: .* 2\."):
        next(segment(Video(frames(3), video(1).flow)))
    with pytest.raises(ValueError, match="former=-1"):
        fgrne.segmenter(*tiny, former=-1)


def test_the_first_stages_weights_fit_the_second_stage():
    static, last = (read_recipe(f"fgrne:{mode}") for mode in ("static", "video"))
    assert model_options(static) == model_options(last)
    assert static.data.image_every == 1 and static.data.copies == 1


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(fgrne.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    a, b = (jax.nn.sigmoid(run(m, variables, *clip(video(2)))) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.02
