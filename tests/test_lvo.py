"""LVO's streams, memory, made-up stops and protocol; its cells and MP-Net have parity cases."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.layers.deeplab_v1 import LargeFOV
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise, shapes
from jaxvos.systems import lvo
from jaxvos.torch_import import fill
from jaxvos.typing import Video

TINY = {
    "width": 4,
    "convolutions": (1, 1, 1, 1, 1),
    "fov": 8,
    "appearance": 6,
    "motion_width": 4,
    "hidden": 5,
    "kernel": 3,
    "stop_frames": 2,
}
SIZE = (65, 97)
FRAME = (70, 90)
STREAMS = ("deeplab", "motion", "objects")


def video(count: int, size: tuple[int, int] = FRAME) -> Video:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    return Video(frames, [rng.normal(0, 4, (*size, 2)).astype(np.float32) for _ in frames[1:]])


def louder(variables):
    """With a memory that differs more from frame to frame, which at first it hardly does."""
    params = dict(variables["params"])
    for name in ("squeeze1", "squeeze2", "gru", "classify"):
        params[name] = jax.tree.map(lambda leaf: 3 * leaf, params[name])
    return {**variables, "params": params}


@pytest.fixture(scope="module")
def tiny():
    model = lvo.LVO(**TINY)
    return model, louder(initialise(lvo.SYSTEM, model, 0))


@partial(jax.jit, static_argnames=("model", "train"))
def run(model, variables, frames, flow, train=False, seed=0):
    """Outputs and changed statistics for prepared clips."""
    return model.apply(
        variables,
        frames,
        flow,
        train=train,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(seed)},
    )


def clip(count: int, batch: int = 1) -> tuple[jax.Array, jax.Array]:
    """Prepared frames and encoded flow of clips."""
    frames, flow = (
        jax.random.uniform(jax.random.key(i), (batch, count, *SIZE, channels))
        for i, channels in enumerate((3, 2))
    )
    return 200 * frames - 100, 2 * flow


# --- streams -----------------------------------------------------------------------------------


def test_features_lie_on_every_eighth_pixel_from_the_first_one_on():
    net = LargeFOV(4, (1, 1, 1, 1, 1), 8, rate=1)
    picture = jax.random.normal(jax.random.key(0), (1, 161, 9, 3))
    variables = jax.jit(net.init)(jax.random.key(1), picture)
    look = jax.jit(lambda picture: net.apply(variables, picture))
    features = look(picture)
    assert features.shape == (1, 21, 2, 8)
    # Row 80 is in reach of place 10 and of eight more on either side: one for each convolution
    # and pooling at 1/8, two for block 5, which is dilated, and one for all before.
    rows = np.abs(look(picture.at[:, 80].add(500.0)) - features).max(axis=(0, 2, 3))
    np.testing.assert_array_equal(np.flatnonzero(rows > 0), np.arange(2, 19))
    assert LargeFOV().rate == 12


def test_the_published_layer_sizes_are_the_defaults():
    made = shapes(lvo.SYSTEM, lvo.LVO())["params"]
    assert made["deeplab"]["vgg"]["block5_conv3"]["kernel"].shape == (3, 3, 512, 512)
    assert made["deeplab"]["fc6"]["kernel"].shape == (3, 3, 512, 1024)
    assert made["gru"]["x_update"]["kernel"].shape == (7, 7, 129, 64)
    assert made["gru"]["h_out"]["kernel"].shape == (7, 7, 64, 64)
    assert made["merge"]["kernel"].shape == (3, 3, 128, 64)
    assert made["classify"]["kernel"].shape == (1, 1, 64, 2)
    assert len([name for name in made if "gru" in name]) == 1  # one memory for both directions


def test_what_is_told_is_within_bounds_and_motion_comes_last(tiny):
    model, variables = tiny
    frames, flow = clip(1)
    told = model.apply(variables, frames[0], lvo.halved(flow)[0], method="tell")
    assert told.shape == (1, 9, 13, 7)
    looks, moves = told[..., :-1], told[..., -1]
    assert np.abs(looks).max() <= 1 and looks.min() < 0 < looks.max()
    small = variables["params"]["motion"], variables["batch_stats"]["motion"]
    logits = lvo.MotionPattern(4).apply(
        {"params": small[0], "batch_stats": small[1]}, flow[0, :, ::2, ::2]
    )
    assert logits.shape == (1, 16, 24, 1)  # a quarter of the frame
    np.testing.assert_allclose(moves, lvo.bilinear(nn.sigmoid(logits), (9, 13))[..., 0], atol=1e-6)


def test_deeplab_as_caffe_names_it_fills_its_part(tiny):
    _, variables = tiny
    target = variables["params"]["deeplab"]
    tensors = {}
    for b in range(1, 6):
        leaf = target["vgg"][f"block{b}_conv1"]["kernel"]
        tensors[f"conv{b}_1.weight"] = np.asarray(leaf).transpose(3, 2, 0, 1) + 1
        tensors[f"conv{b}_1.bias"] = np.full(leaf.shape[-1], 7.0)
    tensors["fc6.weight"] = np.asarray(target["fc6"]["kernel"]).transpose(3, 2, 0, 1)
    tensors["fc6.bias"] = np.full(8, 3.0)
    tensors["fc8.bias"] = np.zeros(21)
    filled, _ = fill(
        variables, tensors, lvo.deeplab_v1.NAMES, under="deeplab", ignore=(r"fc[78].*",)
    )
    ours = filled["params"]["deeplab"]
    np.testing.assert_allclose(
        ours["vgg"]["block2_conv1"]["kernel"], target["vgg"]["block2_conv1"]["kernel"] + 1
    )
    assert (ours["fc6"]["bias"] == 3).all()


def test_the_first_stage_learns_objects_of_stills_and_motion_of_clips(tiny):
    model, variables = tiny
    streams = model.copy(memory=False)
    frames, flow = clip(2, batch=2)
    moving, changed = run(streams, variables, frames, flow, train=True)
    assert moving.keys() == {"motion"} and moving["motion"].shape == (2, 1, 16, 24, 1)
    moved = changed["batch_stats"]["motion"]["enc1"]["bn"]["mean"]
    assert np.abs(moved).max() > 0
    still, kept = run(streams, variables, frames[:, :1], 0 * flow[:, :1], train=True)
    assert still.keys() == {"objects"} and still["objects"].shape == (2, 1, 9, 13, 1)
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    masks = jnp.ones((2, 2, *SIZE, 1))
    assert lvo.loss(moving, {"masks": masks})[1].keys() == {"video_loss"}
    assert lvo.loss(still, {"mask": masks[:, 0]})[1].keys() == {"image_loss"}
    with pytest.raises(ValueError, match=r"from single stills.*'motion'"):
        lvo.loss(moving, {"mask": masks[:, 0]})


# --- memory ------------------------------------------------------------------------------------


def test_every_frame_is_told_by_those_before_and_by_those_after(tiny):
    model, variables = tiny
    frames, flow = clip(3)
    logits = run(model, variables, frames, flow)[0]["memory"]
    for t in (0, 2):
        other = run(model, variables, frames.at[:, t].multiply(-1), flow)[0]["memory"]
        assert np.abs(other - logits).max(axis=(0, 2, 3, 4)).min() > 1e-4


def test_one_way_memory_does_not_know_what_comes(tiny):
    one_way = lvo.LVO(**TINY, bidirectional=False)
    variables = louder(initialise(lvo.SYSTEM, one_way, 0))
    assert "merge" not in variables["params"]
    frames, flow = clip(3)
    logits = run(one_way, variables, frames, flow)[0]["memory"]
    other = run(one_way, variables, frames.at[:, 2].multiply(-1), flow)[0]["memory"]
    np.testing.assert_array_equal(other[:, :2], logits[:, :2])
    assert np.abs(other - logits)[:, 2].max() > 1e-4


def test_a_video_backwards_swaps_the_two_states(tiny):
    """Both directions have the same weights."""
    model, variables = tiny
    told = jax.random.normal(jax.random.key(3), (1, 3, 9, 13, 7))
    both = lambda m, x: (m.gru(x), m.gru(x, reverse=True))  # noqa: E731
    ahead, back = model.apply(variables, told, method=both)
    turned_ahead, turned_back = model.apply(variables, told[:, ::-1], method=both)
    np.testing.assert_allclose(turned_ahead[:, ::-1], back, atol=1e-5)
    np.testing.assert_allclose(turned_back[:, ::-1], ahead, atol=1e-5)
    frames, flow = clip(3)
    swapped = dict(variables["params"])
    kernel = swapped["merge"]["kernel"]
    turned = jnp.concatenate([kernel[:, :, 5:], kernel[:, :, :5]], axis=2)
    swapped["merge"] = {**swapped["merge"], "kernel": turned}
    other = {**variables, "params": swapped}
    forwards = run(model, variables, frames, flow)[0]["memory"]
    backwards = run(model, other, frames[:, ::-1], flow[:, ::-1])[0]["memory"]
    np.testing.assert_allclose(backwards[:, ::-1], forwards, atol=1e-4)


def test_two_classes_decide_as_a_softmax(tiny):
    model, variables = tiny
    states = jax.random.normal(jax.random.key(2), (2, 1, 9, 13, 5))
    logits = model.apply(variables, *states, method="decide")
    two = model.apply(
        variables, *states, method=lambda m, a, b: m.classify(m.merge(jnp.concatenate([a, b], -1)))
    )
    np.testing.assert_allclose(nn.sigmoid(logits[..., 0]), nn.softmax(two)[..., 1], atol=1e-6)


def test_the_memory_stage_leaves_the_streams_as_they_are(tiny):
    model, variables = tiny
    frames, flow = clip(3, batch=2)
    masks = (frames[..., :1] > 0).astype(jnp.float32)

    @jax.jit
    def gradient(params):
        def value(params):
            outputs, changed = model.apply(
                {**variables, "params": params},
                frames,
                flow,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return lvo.loss(outputs, {"masks": masks})[0], changed["batch_stats"]

        return jax.grad(value, has_aux=True)(params)

    grads, statistics = gradient(variables["params"])
    moved = {k: float(sum(jnp.abs(g).sum() for g in jax.tree.leaves(v))) for k, v in grads.items()}
    assert [moved.pop(name) for name in STREAMS] == [0, 0, 0]
    assert moved.keys() == {"squeeze1", "squeeze2", "gru", "merge", "classify"}
    assert min(moved.values()) > 0
    jax.tree.map(np.testing.assert_array_equal, statistics, variables["batch_stats"])


# --- objects that stop -------------------------------------------------------------------------


def test_in_a_share_of_the_clips_the_object_stops_at_the_end_or_the_beginning():
    draws = jnp.asarray([0.05, 0.15, 0.25])
    source, own = lvo.stopped(draws, 14, 0.2, 5)
    np.testing.assert_array_equal(source[0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8, 8])
    np.testing.assert_array_equal(source[1], [5, 5, 5, 5, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13])
    np.testing.assert_array_equal(source[2], np.arange(14))
    np.testing.assert_array_equal(own.sum(axis=1), [9, 9, 14])
    assert own[0, 8] and own[1, 5]


def test_a_clip_too_short_to_stop_keeps_one_frame():
    source, own = lvo.stopped(jnp.asarray([0.0, 0.15]), 3, 0.2, 5)
    np.testing.assert_array_equal(source, [[0, 0, 0], [2, 2, 2]])
    np.testing.assert_array_equal(own, [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(lvo.stopped(jnp.zeros(1), 1, 0.2, 5)[0], [[0]])


def test_a_stop_repeats_frame_and_mask_and_takes_the_motion_away(tiny):
    model, variables = tiny
    frames, flow = clip(4)
    always = model.copy(stops=1.0)
    seeds = range(8)
    ends = [run(always, variables, frames, flow, True, seed)[0] for seed in seeds]
    kinds = {tuple(np.asarray(out["source"][0]).tolist()) for out in ends}
    assert kinds == {(0, 1, 1, 1), (2, 2, 2, 3)}
    out = next(out for out in ends if out["source"][0, 0] == 0)
    # What the memory is told is that of frames 0 1 1 1, and no motion in the last two.
    told = jnp.stack(
        [
            model.apply(variables, frames[:, t], lvo.halved(flow[:, t]), method="tell")
            for t in (0, 1, 1, 1)
        ],
        axis=1,
    )
    told = told.at[:, 2:, ..., -1].set(0.0)
    both = lambda m, x: m.decide(m.gru(x), m.gru(x, reverse=True))  # noqa: E731
    np.testing.assert_allclose(out["memory"], model.apply(variables, told, method=both), atol=1e-4)


def test_masks_stop_with_the_frames():
    logits = jnp.zeros((1, 3, 1, 1, 1)).at[0, 2].set(3.0)
    masks = jnp.asarray([0.0, 1.0, 0.0]).reshape(1, 3, 1, 1, 1) * jnp.ones((1, 3, 2, 2, 1))
    outputs = {"memory": logits, "source": jnp.asarray([[0, 1, 1]])}
    total, _ = lvo.loss(outputs, {"masks": masks})
    np.testing.assert_allclose(total, (2 * np.log(2) + np.log(1 + np.exp(-3))) / 3, rtol=1e-6)
    still, metrics = lvo.loss(outputs, {"mask": jnp.ones((1, 2, 2, 1))})
    np.testing.assert_allclose(still, total, rtol=1e-6)
    assert metrics.keys() == {"image_loss"}


def test_nothing_stops_at_inference_or_without_a_share(tiny):
    model, variables = tiny
    frames, flow = clip(4)
    plain = run(model.copy(stops=1.0), variables, frames, flow)[0]
    np.testing.assert_array_equal(plain["source"], [[0, 1, 2, 3]])
    never = run(model.copy(stops=0.0), variables, frames, flow, True)[0]
    np.testing.assert_array_equal(never["memory"], plain["memory"])


# --- protocol ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("both", "batch"), [(True, 3), (False, 1)])
def test_protocol_answers_as_the_network_on_the_whole_video(tiny, both, batch):
    model = tiny[0].copy(bidirectional=both)
    variables = tiny[1] if both else louder(initialise(lvo.SYSTEM, model, 0))
    # Of the network's own size, where nothing is resized.
    whole = video(4, SIZE)
    ours = list(lvo.segmenter(model, variables, size=SIZE, batch=batch)(whole))
    frames = lvo.prepare(jnp.stack(whole.frames))[None]
    flow = lvo.prepare_flow(jnp.stack([*whole.flow, whole.flow[-1]]))[None]
    # The protocol takes places of a grid of half the size, rounded up: every second one, nearly.
    rows, columns = (np.arange(-(-n // 2)) * n // -(-n // 2) for n in SIZE)
    picked = flow[:, :, rows][:, :, :, columns]
    flow = flow.at[:, :, ::2, ::2].set(picked)
    logits = run(model, variables, frames, flow)[0]["memory"][0]
    expected = lvo.bilinear(nn.sigmoid(logits), SIZE, align_corners=True)[..., 0]
    assert len(ours) == 4 and ours[0].dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.abs(ours[0] - ours[3]).max() > 1e-3


def test_any_length_compiles_once_and_goes_through_the_streams_once(tiny, monkeypatch):
    model, variables = tiny
    tell, calls = lvo._tell, []
    monkeypatch.setattr(lvo, "_tell", lambda *args: calls.append(1) or tell(*args))
    segment = lvo.segmenter(model, variables, size=SIZE, batch=3)
    list(segment(video(2)))
    compiled = [f._cache_size() for f in (tell, lvo._step, lvo._decide)]
    calls.clear()
    results = list(segment(video(7)))
    assert [scores.shape for scores in results] == [FRAME] * 7
    assert len(calls) == 3
    assert [f._cache_size() for f in (tell, lvo._step, lvo._decide)] == compiled


def test_one_way_the_first_score_does_not_wait_for_the_last_frame(tiny):
    model = lvo.LVO(**TINY, bidirectional=False)
    variables = initialise(lvo.SYSTEM, model, 0)
    whole, seen = video(5), []

    class Frames(list):
        def __getitem__(self, t):
            seen.append(t)
            return super().__getitem__(t)

    next(lvo.segmenter(model, variables, size=SIZE)(whole._replace(frames=Frames(whole.frames))))
    assert max(seen) == 0


def test_a_single_frame_and_a_scene_that_stands_still_have_scores(tiny):
    segment = lvo.segmenter(*tiny, size=SIZE)
    (alone,) = segment(video(1, (1, 1)))
    assert alone.shape == (1, 1) and 0 <= alone <= 1
    still = Video(video(2).frames, [np.zeros((*FRAME, 2), np.float32)])
    assert all(np.isfinite(scores).all() for scores in segment(still))


def test_a_video_without_flow_is_told_how_to_get_it(tiny):
    with pytest.raises(ValueError, match=r"LVO.*--flow dis"):
        next(lvo.segmenter(*tiny, size=SIZE)(video(3)._replace(flow=None)))


# --- recipe ------------------------------------------------------------------------------------


def test_the_streams_weights_fit_the_memorys_stage_and_only_one_of_both_learns():
    before, last = read_recipe("lvo:streams"), read_recipe("lvo")
    differ = {k for k, v in model_options(last).items() if model_options(before)[k] != v}
    assert differ == {"memory"}
    made = [shapes(lvo.SYSTEM, lvo.LVO(**TINY, memory=memory)) for memory in (True, False)]
    assert jax.tree.structure(made[0]) == jax.tree.structure(made[1])
    assert before.data.image_every == 2 and before.data.copies == 1 and before.data.frames == 2


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, _ = tiny
    half = model.copy(dtype="bfloat16")
    made = jax.tree.leaves(shapes(lvo.SYSTEM, half))
    assert {leaf.dtype for leaf in made} == {jnp.dtype("float32")}
    variables = initialise(lvo.SYSTEM, model, 0)
    a, b = (nn.sigmoid(run(m, variables, *clip(3))[0]["memory"]) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.03
