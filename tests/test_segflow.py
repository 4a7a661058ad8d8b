"""SegFlow's sizes, enlargements, losses and protocol; its arithmetic is pinned by tests/parity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.flownet import resample
from jaxvos.optim import build
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import segflow
from jaxvos.typing import Video
from jaxvos.video import write_mask

SIZE = (32, 48)
FRAME = (40, 60)


def video(count: int, seed: int = 0) -> Video:
    rng = np.random.default_rng(seed)
    return Video([rng.integers(0, 256, (*FRAME, 3), np.uint8) for _ in range(count)])


@pytest.fixture(scope="module")
def tiny():
    """A tiny network whose scores are far from even."""
    model = segflow.SegFlow(depths=(1, 1, 1, 1), width=4, flow_width=4)
    made = jax.device_get(initialise(segflow.SYSTEM, model, 0))
    params = dict(made["params"])
    for name in ("scale_res4", "scale_res3", "segmentation", "motion"):
        params[name] = jax.tree.map(lambda leaf: 10 * leaf, params[name])
    return model, {**made, "params": params}


@partial(jax.jit, static_argnames="model")
def look(model, variables, pairs):
    """Outputs [B, H, W, 2] of pairs [B, 2, H, W, 3]."""
    return jax.tree.map(lambda x: x[:, 0], model.apply(variables, pairs))


def pairs(count=2):
    return 60 * jax.random.normal(jax.random.key(0), (count, 2, *SIZE, 3))


# --- sizes -------------------------------------------------------------------------------------


def test_the_flow_grid_is_at_least_half_a_step_larger():
    assert segflow.flow_grid((480, 854)) == (512, 896)
    assert segflow.flow_grid((96, 97)) == (128, 192)


def test_sides_whose_last_pixels_would_have_no_score_are_refused(tiny):
    for side in (16, 32, 86, 96, 150, 480, 854):
        segflow.check_sides((side, side))
    for side in (1, 97, 98):
        with pytest.raises(ValueError, match=rf"a side of {side} .* multiples of 16"):
            segflow.check_sides((480, side))
    with pytest.raises(ValueError, match="a side of 97"):
        segflow.segmenter(*tiny, size=(480, 97))
    with pytest.raises(ValueError, match="a side of 97"):
        jax.eval_shape(tiny[0].apply, tiny[1], jnp.zeros((1, 2, 32, 97, 3)))


# --- enlargements ------------------------------------------------------------------------------


def test_half_a_pixel_is_measured_along_the_other_axis():
    x = jnp.arange(4.0)[None, :, None, None] + 10 * jnp.arange(3.0)[None, None, :, None]
    large = resample(x, (8, 12))[0, ..., 0]
    rows = (np.arange(8) / 2 + 0.25 / 2 - 0.5).clip(0, 3)
    columns = (np.arange(12) / 4 + 0.5 / 2 - 0.5).clip(0, 2)
    np.testing.assert_allclose(large, rows[:, None] + 10 * columns, atol=1e-6)


@pytest.mark.parametrize(("factor", "size"), [(2, (7, 9)), (8, (30, 35))])
def test_scores_are_enlarged_by_the_cropped_transposed_convolution(factor, size):
    x = np.random.default_rng(0).standard_normal((4, 5))
    side = 2 * factor
    taps = 1 - np.abs(np.arange(side) - (factor - 0.5)) / factor
    whole = np.zeros([(n - 1) * factor + side for n in x.shape])
    for (i, j), value in np.ndenumerate(x):
        i, j = i * factor, j * factor
        whole[i : i + side, j : j + side] += value * np.outer(taps, taps)
    found = segflow.upscore(jnp.float32(x)[None, ..., None], factor, size)[0, ..., 0]
    expected = whole[factor : factor + size[0], factor : factor + size[1]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


# --- network and losses ------------------------------------------------------------------------


def test_a_clip_has_scores_and_flow_of_all_frames_but_the_last(tiny):
    model, variables = tiny
    frames = 60 * jax.random.normal(jax.random.key(1), (1, 3, *SIZE, 3))
    whole = jax.jit(model.apply)(variables, frames)
    assert {k: v.shape for k, v in whole.items()} == {
        "score": (1, 2, *SIZE, 2),
        "flow": (1, 2, *SIZE, 2),
    }
    each = look(model, variables, jnp.stack([frames[0, :2], frames[0, 1:]]))
    for name in whole:
        np.testing.assert_allclose(whole[name][0], each[name], atol=2e-4)
    single = jax.jit(model.apply)(variables, frames[:, 2:])
    twice = look(model, variables, jnp.stack([frames[0, [2, 2]]] * 2))
    np.testing.assert_allclose(single["score"][0, 0], twice["score"][0], atol=2e-4)


def test_each_head_sees_both_branches(tiny):
    model, variables = tiny
    one = pairs()
    before = look(model, variables, one)
    moved = look(model, variables, one.at[:, 1].multiply(-1.0))  # only FlowNet sees the second
    assert all(np.abs(moved[name] - before[name]).max() > 1e-3 for name in before)
    resnet = jax.tree.map(lambda leaf: 2 * leaf, variables["params"]["resnet"])
    other = {**variables, "params": {**variables["params"], "resnet": resnet}}
    after = look(model, other, one)
    assert all(np.abs(after[name] - before[name]).max() > 1e-3 for name in before)


def test_the_stored_mean_is_taken_off_what_flownet_sees_alone(tiny):
    model, variables = tiny
    stored = jax.tree.map(lambda x: x, variables["batch_stats"])
    stored["mean1"] = {"mean": jnp.float32([0.5, 0, 0])}
    shifted = look(model, {**variables, "batch_stats": stored}, pairs())
    by_hand = pairs().at[:, 1, ..., 0].add(-0.5 * 255)
    np.testing.assert_allclose(shifted["flow"], look(model, variables, by_hand)["flow"], atol=1e-3)
    assert np.abs(shifted["flow"] - look(model, variables, pairs())["flow"]).max() > 1e-3


def test_the_released_loss_is_a_sum_and_the_papers_weighs_the_rarer_class_more():
    score = jnp.zeros((2, 1, 2, 4, 2)).at[..., 1].set(2.0)
    masks = jnp.zeros((2, 2, 2, 4, 1)).at[:, 0, 0, :2].set(1.0)
    hit, miss = np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))
    total, metrics = segflow.loss({"score": score}, {"masks": masks})
    assert total == pytest.approx(2 * hit + 6 * miss, rel=1e-5)
    assert metrics["video_loss"] == pytest.approx(total / 8)
    flow = jnp.full((2, 2, 2, 4, 2), 3.0).at[0, 0, 0, 0].set(jnp.nan)
    outputs = {"score": score, "flow": jnp.zeros((2, 1, 2, 4, 2)).at[..., 1].set(7.0)}
    total, metrics = segflow.loss(outputs, {"masks": masks, "flow": flow})
    balanced = (0.75 * 2 * hit + 0.25 * 6 * miss) / 8
    assert metrics["segmentation_loss"] == pytest.approx(balanced, rel=1e-5)
    assert metrics["end_point_error"] == pytest.approx(5, rel=1e-5)
    assert total == pytest.approx(balanced + segflow.LAMBDA * 5, rel=1e-5)
    still, metrics = segflow.loss({"score": score}, {"mask": masks[:, 0]})
    assert still == pytest.approx(2 * hit + 6 * miss, rel=1e-5) and "image_loss" in metrics


def test_frames_without_any_mask_train_the_flow_alone():
    score = jax.random.normal(jax.random.key(0), (1, 1, 2, 4, 2))
    found = {"score": score, "flow": jnp.zeros_like(score)}
    batch = {"masks": jnp.zeros((1, 2, 2, 4, 1)), "flow": jnp.zeros((1, 2, 2, 4, 2))}
    grads = jax.grad(lambda outputs: segflow.loss(outputs, batch)[0])(found)
    assert not np.asarray(grads["score"]).any() and np.isfinite(grads["flow"]).all()


def test_each_branch_learns_in_its_turn_and_fixed_scales_never(tiny):
    params = tiny[1]["params"]
    groups = read_recipe("segflow:alternate").optimizer
    rule = build(groups, params, steps=10, steps_per_epoch=5)
    state, ones = jax.jit(rule.init)(params), jax.tree.map(np.ones_like, params)
    update = jax.jit(rule.update)
    moving = []
    for _ in range(3):
        updates, state = update(ones, state, params)
        moving.append({k for k, v in updates.items() if np.abs(jax.tree.leaves(v)[0]).max() > 0})
    assert moving[0] == moving[2] == {"resnet", "segmentation"}
    assert moving[1] == {"flownet", "motion"}


def test_every_mode_trains_the_same_network():
    modes = [read_recipe(f"segflow{mode}") for mode in ("", ":segmentation", ":flow", ":alternate")]
    assert len({str(sorted(model_options(mode).items())) for mode in modes}) == 1
    assert [mode.data.flow for mode in modes] == ["", "", "video", "dis"]
    with pytest.raises(ValueError, match="no mode 'joint'"):
        read_recipe("segflow:joint")


# --- protocol ----------------------------------------------------------------------------------


def by_hand(model, variables, clip, t):
    """The score of object of frame t, at the network's size."""
    small = [segflow.fit(frame, SIZE) for frame in clip.frames]
    pair = np.stack([small[t], small[min(t + 1, len(small) - 1)]])
    outputs = look(model, variables, jnp.stack([segflow.prepare(jnp.asarray(pair))] * 2))
    return jax.nn.softmax(outputs["score"][0], axis=-1)[..., 1]


def test_every_frame_is_compared_with_the_next_and_the_last_with_itself(tiny):
    clip = video(4)
    found = list(segflow.segmenter(*tiny, size=SIZE, batch=3)(clip))
    assert [scores.shape for scores in found] == [FRAME] * 4
    for t, scores in enumerate(found):
        expected = segflow.to_size(by_hand(*tiny, clip, t), FRAME)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert max(np.abs(found[0] - scores).max() for scores in found[1:]) > 1e-3


def test_any_length_compiles_once_and_a_single_frame_has_scores(tiny):
    segment = segflow.segmenter(*tiny, size=SIZE, batch=3)
    list(segment(video(2)))
    compiled = segflow._score._cache_size()
    assert len(list(segment(video(5)))) == 5
    (alone,) = segment(video(1))
    assert alone.shape == FRAME and np.isfinite(alone).all()
    assert segflow._score._cache_size() == compiled


def test_the_first_mask_tunes_the_segmentation_for_its_own_video(tiny, tmp_path):
    model, variables = tiny
    mask = np.zeros(FRAME, np.int32)
    mask[:, :30] = 3  # the number of an object
    frames = [
        np.where(mask[..., None] > 0, frame // 2 + 128, frame // 2) for frame in video(3).frames
    ]
    clip = Video([frame.astype(np.uint8) for frame in frames], first_mask=mask)
    plain = list(segflow.segmenter(model, variables, size=SIZE)(clip))
    segment = segflow.segmenter(model, variables, size=SIZE, tuning=8, rate=1e-8)
    first, again = list(segment(clip)), list(segment(clip))
    np.testing.assert_array_equal(first[0], again[0])  # nothing is kept from video to video

    def entropy(scores):
        return -np.log(np.where(mask > 0, scores, 1 - scores) + 1e-6).mean()

    assert entropy(first[0]) < 0.95 * entropy(plain[0])
    (tmp_path / "video").mkdir()
    write_mask(tmp_path / "video" / "00000.png", mask)
    write_mask(tmp_path / "video" / "00001.png", 0 * mask)
    bare = clip._replace(first_mask=None)
    for place in (tmp_path, tmp_path / "video" / "00000.png"):
        told = segflow.segmenter(model, variables, size=SIZE, tuning=8, rate=1e-8, mask=str(place))
        np.testing.assert_array_equal(next(told(bare)), first[0])
    own = segflow.learned(model, variables, clip, SIZE, steps=1, rate=1e-8)
    changed = {
        name: any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), part, before)))
        for name, part, before in (
            (name, own["params"][name], variables["params"][name]) for name in own["params"]
        )
    }
    assert {name for name, moved in changed.items() if moved} == set(segflow.TUNED)


def test_tuning_without_a_first_mask_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"no first mask, which tuning .* `first_mask`"):
        next(segflow.segmenter(*tiny, size=SIZE, tuning=2)(video(2)))
    (tmp_path / "other").mkdir()
    told = segflow.segmenter(*tiny, size=SIZE, tuning=2, mask=str(tmp_path))
    with pytest.raises(ValueError, match=r"video has no \.png"):
        next(told(video(2)))
    write_mask(tmp_path / "small.png", np.zeros((4, 5), np.uint8))
    told = segflow.segmenter(*tiny, size=SIZE, tuning=2, mask=str(tmp_path / "small.png"))
    with pytest.raises(ValueError, match=r"small.png is \(4, 5\), the first frame is"):
        next(told(video(2)))
    with pytest.raises(ValueError, match="tuning=-1"):
        segflow.segmenter(*tiny, size=SIZE, tuning=-1)


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(segflow.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    a, b = (jax.nn.softmax(look(m, variables, pairs())["score"]) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.1
