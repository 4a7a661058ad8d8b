"""RAFT: windows of the correlation, the loss, frames encoded once, padding, weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.checkpoints import save_weights
from jaxvos.flow.fields import with_flow
from jaxvos.flow.raft import RAFT, padded, padding, prepare
from jaxvos.flow.raft_video import estimator, read
from jaxvos.layers.correlation import averaged, lookup, on_demand, volume
from jaxvos.systems.raft import SYSTEM, sequence_loss
from jaxvos.typing import Video

SIZE = (9, 14)


def maps(seed, channels=6, size=SIZE):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((2, *size, channels)), jnp.float32)


def around(size=SIZE, seed=3, spread=4.0):
    """Places [2, h, w, 2], some beyond the map."""
    y, x = np.mgrid[: size[0], : size[1]]
    rng = np.random.default_rng(seed)
    moved = np.stack([x, y], -1) + spread * rng.standard_normal((2, *size, 2))
    return jnp.asarray(moved, jnp.float32)


def by_loops(a, b, places, radius, levels):
    """The definition: bilinear, zero outside; offsets in x first."""
    found = []
    corr = np.einsum("byxc,bvuc->byxvu", a, b) / np.sqrt(a.shape[-1])
    for level in range(levels):
        if level:
            h, w = corr.shape[3] // 2, corr.shape[4] // 2
            cut = corr[..., : 2 * h, : 2 * w]
            corr = cut.reshape(*corr.shape[:3], h, 2, w, 2).mean((4, 6))
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                x, y = places[..., 0] / 2**level + dx, places[..., 1] / 2**level + dy
                total = 0
                for iy in (np.floor(y), np.floor(y) + 1):
                    for ix in (np.floor(x), np.floor(x) + 1):
                        weight = (1 - abs(x - ix)) * (1 - abs(y - iy))
                        inside = (ix >= 0) & (ix < corr.shape[4]) & (iy >= 0) & (iy < corr.shape[3])
                        i, j, k = np.indices(x.shape)
                        cy = iy.clip(0, corr.shape[3] - 1).astype(int)
                        cx = ix.clip(0, corr.shape[4] - 1).astype(int)
                        total += np.where(inside, weight * corr[i, j, k, cy, cx], 0)
                found.append(total)
    return np.stack(found, -1)


def test_windows_are_bilinear_zero_outside_and_x_comes_first():
    a, b, places = maps(0), maps(1), around(spread=9.0)
    expected = by_loops(*(np.asarray(x, np.float64) for x in (a, b, places)), 2, 3)
    found = jax.jit(lambda: lookup(volume(a, b, 3), places, 2))()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    far = lookup(volume(a, b, 2), places + jnp.full((1, 1, 1, 2), 1e4), 2)
    assert not np.asarray(far).any()


def test_on_demand_gives_the_same_windows_and_gradients():
    a, b, places = maps(0), maps(1), around()
    weights = jnp.asarray(np.random.default_rng(5).standard_normal((2, *SIZE, 75)), jnp.float32)

    def whole(a, b):
        return (lookup(volume(a, b, 3), places, 2) * weights).sum()

    def asked(a, b):
        return (on_demand(a, averaged(b, 3), places, 2) * weights).sum()

    of_whole, of_asked = (
        jax.jit(jax.value_and_grad(form, argnums=(0, 1)))(a, b) for form in (whole, asked)
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-4),
        *(
            of_whole,
            of_asked,
        ),
    )


def test_the_loss_weighs_later_iterations_more_and_leaves_out_what_is_not_known():
    flow = np.zeros((1, 2, 3, 2), np.float32)
    flow[0, 0, 0] = np.nan
    flow[0, 0, 1] = 300, 300  # longer than 400
    predictions = np.zeros((1, 2, 2, 3, 2), np.float32)
    predictions[:, 0], predictions[:, 1] = 3, 4
    loss, error = sequence_loss(jnp.asarray(predictions), jnp.asarray(flow), gamma=0.5)
    assert loss == pytest.approx((0.5 * 3 + 4) * 4 / 6)
    assert error == pytest.approx(np.sqrt(32))
    grad = jax.grad(lambda p: sequence_loss(p, jnp.asarray(flow))[0])(jnp.asarray(predictions))
    assert np.isfinite(grad).all() and not grad[0, :, 0, :2].any() and grad[0, 1, 1].all()


def test_pictures_are_padded_to_multiples_of_8_and_at_least_128():
    assert padding((480, 850)) == ((0, 0), (3, 3))
    assert padding((436, 1024)) == ((2, 2), (0, 0))
    assert padding((436, 1024), top=False) == ((0, 4), (0, 0))
    assert padding((30, 127)) == ((49, 49), (0, 1))
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    out = padded(picture, ((1, 0), (0, 2)))
    assert out.shape == (3, 4, 3) and (out[0, 0] == picture[0, 0]).all()
    assert (out[2, 3] == picture[1, 1]).all()


@pytest.fixture(scope="module")
def small():
    """The small network with random weights."""
    model = RAFT(small=True, iterations=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 64, 64, 3)))
    rng = np.random.default_rng(0)

    def drawn(shape):
        scale = (2 / np.prod(shape.shape[:-1])) ** 0.5 if len(shape.shape) == 4 else 0.1
        return (scale * rng.standard_normal(shape.shape)).astype(np.float32)

    return model, jax.tree.map(drawn, shapes)


def frames_of(count, size=(100, 141)):
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("raft") / "raft.safetensors"
    about = {"version": "0", "license": "none", "source": "test"}
    save_weights(path, small[1], {"system": "raft", "options": '{"small": true}', **about})
    return path


def test_a_video_is_encoded_frame_by_frame_and_flows_are_those_of_pairs(small, monkeypatch):
    from jaxvos.flow import raft_video

    model, variables = small
    frames, counted = frames_of(3), []
    encode = raft_video._encode
    monkeypatch.setattr(raft_video, "_encode", lambda *args: (counted.append(1), encode(*args))[1])
    estimate = estimator(model, variables, iterations=2)
    found = [estimate(frames, t, t + 1) for t in (0, 1)]
    assert len(counted) == 3 and found[0].shape == (100, 141, 2)
    pads = padding((100, 141))
    both = jnp.stack([padded(frame, pads) for frame in frames[1:]])[None]
    flow = jax.jit(lambda x: model.apply(variables, prepare(x)))(both)[0, -1]
    (above, _), (left, _) = pads
    expected = flow[above : above + 100, left : left + 141]
    np.testing.assert_allclose(found[1], expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(found[0] - found[1]).max() > 0.01
    estimate(frames_of(3), 0, 1)
    assert len(counted) == 5  # another video's frames are not taken for these
    with pytest.raises(ValueError, match="of two sizes"):
        estimate([frames[0], frames_of(1, (100, 150))[0]], 0, 1)
    with pytest.raises(ValueError, match="not 0 times"):
        estimator(model, variables, iterations=0)


def test_raft_is_named_with_its_weights(file, tmp_path):
    video = Video(frames_of(2))
    flow = with_flow(video, f"raft:{file}").flow[0]
    np.testing.assert_array_equal(flow, read(file)(video.frames, 0, 1))
    with pytest.raises(ValueError, match="RAFT needs weights: raft:WEIGHTS"):
        with_flow(video, "raft")
    about = {"version": "0", "license": "none", "source": "test", "options": "{}"}
    save_weights(tmp_path / "w.safetensors", {"a": np.zeros(1)}, {"system": "cosnet", **about})
    with pytest.raises(ValueError, match="weights of 'cosnet', not of 'raft'"):
        with_flow(video, f"raft:{tmp_path / 'w.safetensors'}")


def test_raft_says_that_it_segments_nothing(small):
    with pytest.raises(ValueError, match="raft:WEIGHTS"):
        SYSTEM.segmenter(*small)
