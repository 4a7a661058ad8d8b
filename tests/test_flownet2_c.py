"""FlowNet2-C: the correlation of places, the loss, squashed frames, weights by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.checkpoints import save_weights
from jaxvos.flow.fields import with_flow
from jaxvos.flow.flownet import FlowNet2C, estimator, fitting, prepare, read
from jaxvos.layers.flownet import SCALE, FlowNetS, correlation
from jaxvos.layers.resize import bilinear
from jaxvos.system import initialise
from jaxvos.systems.flownet2_c import SYSTEM, WEIGHTS, loss, multiscale_loss, shrunk
from jaxvos.typing import Video

ABOUT = {"version": "0", "license": "none", "source": "test", "options": '{"width": 4, "reach": 2}'}


@pytest.fixture(scope="module")
def tiny():
    model = FlowNet2C(width=4, reach=2)
    return model, initialise(SYSTEM, model, 0)


@pytest.fixture(scope="module")
def file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("flownet") / "weights.safetensors"
    save_weights(path, jax.device_get(tiny[1]), {"system": "flownet2_c", **ABOUT})
    return path


def frames_of(count, size=(70, 131)):
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def by_loops(a, b, reach, stride):
    """The definition: mean of products at a displacement, zero outside, row by row."""
    _, height, width, channels = a.shape
    found = np.zeros((*a.shape[:3], (2 * reach + 1) ** 2))
    for y, x in np.ndindex(height, width):
        for k, (j, i) in enumerate(np.ndindex(2 * reach + 1, 2 * reach + 1)):
            v, u = y + stride * (j - reach), x + stride * (i - reach)
            if 0 <= v < height and 0 <= u < width:
                found[:, y, x, k] = (a[:, y, x] * b[:, v, u]).sum(-1) / channels
    return found


# --- network -----------------------------------------------------------------------------------


def test_the_correlation_is_the_mean_product_at_every_second_place_row_by_row():
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((2, 5, 7, 6)) for _ in range(2))
    for reach, stride in ((2, 2), (1, 3), (0, 1)):
        found = correlation(jnp.float32(a), jnp.float32(b), reach=reach, stride=stride)
        np.testing.assert_allclose(found, by_loops(a, b, reach, stride), atol=1e-5)


def test_gradients_of_the_correlation_reach_both_maps():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.standard_normal((1, 3, 4, 2)), jnp.float32) for _ in range(2))
    weights = rng.standard_normal((1, 3, 4, 9))

    def value(a, b):
        return (correlation(a, b, reach=1, stride=1) * jnp.float32(weights)).sum()

    of_a, of_b = jax.jit(jax.grad(value, argnums=(0, 1)))(a, b)
    step = np.zeros(a.shape)
    step[0, 1, 2, 1] = 1  # the sum is linear in each map
    moved_a = (by_loops(step, np.asarray(b), 1, 1) * weights).sum()
    moved_b = (by_loops(np.asarray(a), step, 1, 1) * weights).sum()
    assert of_a[0, 1, 2, 1] == pytest.approx(moved_a, rel=1e-4)
    assert of_b[0, 1, 2, 1] == pytest.approx(moved_b, rel=1e-4)


def test_the_mean_colour_is_that_of_both_pictures_and_the_order_is_bgr():
    frames = np.zeros((1, 2, 2, 2, 3), np.uint8)
    frames[0, 0] = 100, 20, 10
    found = prepare(jnp.asarray(frames))
    np.testing.assert_allclose(found[0, 0, 0, 0] * 255, [5, 10, 50], rtol=1e-5)
    np.testing.assert_allclose(found[0, 1], -found[0, 0], rtol=1e-5)


def test_a_brighter_pair_has_the_same_flow_and_a_swapped_one_another(tiny):
    model, variables = tiny
    run = jax.jit(lambda frames: model.apply(variables, prepare(frames)))
    frames = jnp.asarray(frames_of(2, (64, 64)))[None].astype(jnp.float32)
    flows = run(frames)
    assert [flow.shape[1] for flow in flows] == [16, 8, 4, 2, 1]
    np.testing.assert_allclose(run(frames + 9)[0], flows[0], atol=1e-4)
    assert np.abs(run(frames[:, ::-1])[0] - flows[0]).max() > 1e-2


def test_sides_that_are_no_multiples_of_64_and_clips_of_three_are_refused(tiny):
    model, variables = tiny
    for shape, words in (((1, 2, 64, 72, 3), "multiples of 64"), ((1, 3, 64, 64, 3), "B, 2, H")):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(model.apply, variables, jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"multiples of 64, not \(64, 72\)"):
        jax.eval_shape(FlowNetS().init, jax.random.key(0), jnp.zeros((1, 64, 72, 6)))


# --- loss --------------------------------------------------------------------------------------


def test_what_is_known_of_a_cell_is_its_flow():
    flow = np.arange(16, dtype=np.float32).reshape(1, 2, 4, 2)
    flow[0, 0, 0], flow[0, :, 2:] = np.nan, np.nan
    small, known = shrunk(jnp.asarray(flow), (1, 2))
    np.testing.assert_allclose(small[0, 0, 0], flow[0].reshape(-1, 2)[[1, 4, 5]].mean(0))
    np.testing.assert_array_equal(known, [[[True, False]]])
    assert not np.asarray(small[0, 0, 1]).any()


def test_the_loss_sums_end_point_errors_and_weighs_the_coarsest_most():
    flow = np.full((2, 64, 128, 2), 20.0, np.float32)
    flow[:, :32] = np.nan
    found = tuple(jnp.full((2, 64 // k, 128 // k, 2), 4.0) for k in (4, 8, 16, 32, 64))
    value = jax.jit(multiscale_loss)
    total, error = value(found, jnp.asarray(flow))
    places = np.array([8 * 32, 4 * 16, 2 * 8, 1 * 4, 2])  # of the lower half; one row at 1/64
    assert total == pytest.approx(np.sqrt(18) * (np.array(WEIGHTS) * places).sum(), rel=1e-5)
    assert error == pytest.approx(np.sqrt(2) * 60, rel=1e-5)
    exact = tuple(jnp.ones_like(x) for x in found)
    grads = jax.jit(jax.grad(lambda p: multiscale_loss(p, jnp.asarray(flow))[0]))(exact)
    assert all(np.isfinite(g).all() for g in grads)
    clip = {"flow": jnp.stack([jnp.asarray(flow), jnp.zeros_like(jnp.asarray(flow))], axis=1)}
    again, metrics = jax.jit(loss)(found, clip)  # the second frame's flow is not of this pair
    assert again == total and metrics.keys() == {"end_point_error"}


# --- video -------------------------------------------------------------------------------------


def test_frames_are_squashed_to_lower_multiples_of_64():
    assert fitting((480, 854)) == (448, 832)
    assert fitting((64, 127)) == (64, 64)
    assert fitting((10, 200)) == (64, 192)


def test_flow_of_a_squashed_pair_is_stretched_back_into_the_frames_pixels(tiny):
    model, variables = tiny
    frames = frames_of(3)
    estimate = estimator(model, variables)
    found = estimate(frames, 1, 2)
    assert found.shape == (70, 131, 2) and found.dtype == np.float32
    even = frames_of(2, (64, 128))
    pair = jnp.asarray(np.stack(even))[None]
    fine = jax.jit(lambda x: model.apply(variables, prepare(x)))(pair)[0]
    whole = np.asarray(bilinear(SCALE * fine, (64, 128)))[0]
    np.testing.assert_allclose(estimate(even, 0, 1), whole, atol=1e-3)
    with pytest.raises(ValueError, match="of two sizes"):
        estimate([frames[0], even[0]], 0, 1)


def test_stretched_flow_grows_with_the_frame(tiny, monkeypatch):
    from jaxvos.flow import flownet

    monkeypatch.setattr(flownet, "_flow", lambda *_: np.ones((64, 128, 2), np.float32))
    found = estimator(*tiny)(frames_of(2, (96, 160)), 0, 1)
    np.testing.assert_allclose(found[..., 0], 160 / 128)
    np.testing.assert_allclose(found[..., 1], 96 / 64)


def test_flownet2_c_is_named_with_its_weights(file, tmp_path):
    video = Video(frames_of(2))
    for place in (file, file.parent):
        flow = with_flow(video, f"flownet2_c:{place}").flow[0]
        np.testing.assert_array_equal(flow, read(file)(video.frames, 0, 1))
    with pytest.raises(ValueError, match="FlowNet2-C needs weights: flownet2_c:WEIGHTS"):
        with_flow(video, "flownet2_c")
    with pytest.raises(ValueError, match="dis, raft:WEIGHTS, flownet2_c:WEIGHTS"):
        with_flow(video, "farneback")
    save_weights(tmp_path / "w.safetensors", {"a": np.zeros(1)}, {"system": "raft", **ABOUT})
    with pytest.raises(ValueError, match="weights of 'raft', not of 'flownet2_c'"):
        with_flow(video, f"flownet2_c:{tmp_path / 'w.safetensors'}")


def test_flownet2_c_says_that_it_segments_nothing(tiny):
    with pytest.raises(ValueError, match="flownet2_c:WEIGHTS"):
        SYSTEM.segmenter(*tiny)
