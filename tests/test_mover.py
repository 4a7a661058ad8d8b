"""Mover: its network, its loss, and what its protocol looks at."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.procedural import clip
from jaxvos.along_motion import Moment, carried
from jaxvos.colour_guided import matched, settled
from jaxvos.flow import fields, neighbours
from jaxvos.flow.aligned import _residual, aligned
from jaxvos.inference import to_size
from jaxvos.layers.cpu_conv import NHWC, conv_general_dilated
from jaxvos.layers.folded_unet import folded, unfolded
from jaxvos.layers.time_attention import TimeAttention
from jaxvos.system import initialise
from jaxvos.systems import mover
from jaxvos.typing import Video

TINY = {"widths": (4, 4, 4), "heads": (0, 1, 1), "fine": 2}


@pytest.fixture(scope="module")
def tiny():
    """A network whose attention counts, which a new one's does not."""
    model = mover.Mover(**TINY)
    variables = initialise(mover.SYSTEM, model, 0)
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        name = "/".join(key.key for key in path)
        if "time" in name:
            return jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
        return leaf

    return model, jax.tree_util.tree_map_with_path(drawn, variables)


@pytest.fixture(scope="module")
def run(tiny):
    model, variables = tiny
    return jax.jit(lambda motion: model.apply(variables, motion)["moving"])


def motion(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, frames, 16, 24, 20)).astype(np.float32)


def test_logits_have_the_size_of_the_motion_and_know_the_other_frames(run):
    x = motion(3)
    logits = run(x)
    assert logits.shape == (1, 3, 16, 24, 1)
    changed = x.copy()
    changed[:, 2] = motion(1, 5)[:, 0]
    assert np.abs(run(changed)[:, 0] - logits[:, 0]).max() > 1e-4


def test_sides_that_cannot_be_halved_are_refused(tiny):
    with pytest.raises(ValueError, match="multiples of 8"):
        tiny[0].init(jax.random.key(0), jnp.zeros((1, 1, 12, 16, 20)))


def test_attention_along_time_is_that_of_its_equations():
    rng = np.random.default_rng(0)
    layer = TimeAttention(heads=2, features=3, reach=1)
    x = rng.standard_normal((1, 4, 1, 2, 5)).astype(np.float32)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32),
        layer.init(jax.random.key(0), x)["params"],
    )
    found = layer.apply({"params": params}, x)
    p = params
    for place in range(2):
        own = x[0, :, 0, place]
        expected = own + p["out"]["bias"]
        for head in range(2):
            q, k, v = (
                own @ p[n]["kernel"][:, head] + p[n]["bias"][head]
                for n in ("query", "key", "value")
            )
            scores = q @ k.T / np.sqrt(3)
            for t in range(4):
                for s in range(4):
                    scores[t, s] += p["distance"][head, np.clip(s - t, -1, 1) + 1]
            share = np.exp(scores - scores.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            expected = expected + share @ v @ p["out"]["kernel"][head]
        np.testing.assert_allclose(found[0, :, 0, place], expected, atol=1e-5)


def test_four_channels_of_a_place_are_its_two_by_two_pixels():
    x = np.arange(2 * 6 * 8).reshape(2, 6, 8, 1).astype(np.float32)
    found = folded(jnp.asarray(x))
    np.testing.assert_array_equal(found[1, 2, 3], x[1, 4:6, 6:8, 0].ravel())
    np.testing.assert_array_equal(unfolded(found), x)


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), ((1, 1), (1, 1))), ((1, 1), "VALID")])
def test_the_convolution_for_cpus_has_xlas_values_and_gradients(kernel, padding):
    padding = ((0, 0), (0, 0)) if padding == "VALID" else padding
    rng = np.random.default_rng(0)
    x, w = (
        jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((2, 5, 7, 3), (*kernel, 3, 4))
    )

    def both(conv):
        def value(x, w):
            return jnp.sin(conv(x, w, (1, 1), padding, dimension_numbers=NHWC)).sum()

        return jax.value_and_grad(value, argnums=(0, 1))(x, w)

    found, expected = both(conv_general_dilated), both(jax.lax.conv_general_dilated)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_the_loss_is_cross_entropy_and_dice_of_each_clip():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 3, 4, 5, 1)).astype(np.float32)
    masks = rng.random((2, 3, 4, 5, 1)).astype(np.float32)
    total, metrics = mover.loss({"moving": logits}, {"masks": masks})
    p = 1 / (1 + np.exp(-logits))
    entropy = -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()
    dice = [
        1 - (2 * (a * b).sum() + 1) / ((a + b).sum() + 1) for a, b in zip(p, masks, strict=True)
    ]
    np.testing.assert_allclose(total, entropy + 0.5 * np.mean(dice), rtol=1e-5)
    np.testing.assert_allclose(metrics["dice_loss"], np.mean(dice), rtol=1e-5)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        *(((480, 854), (320, 576)), ((854, 480), (576, 320)), ((480, 480), (448, 448))),
        *(((240, 320), (384, 512)), ((20, 2000), (64, 4288))),
    ],
)
def test_the_working_size_keeps_the_aspect(frame, expected):
    assert neighbours.working_size(frame) == expected


@pytest.fixture(scope="module")
def small(tiny):
    """The protocol at a small working size, so that flow takes no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "AREA", 64 * 64)
        patch.setattr(neighbours, "SLOW", 0.0)
        patch.setattr(neighbours, "QUICK", np.inf)
        yield partial(mover.segmenter, *tiny, clip=5, margin=1, refiner="none")


def by_hand(tiny, frames, clips, *, fast=False, order=(0, 1)):
    """Moments of all frames, from the clips of frames that the protocol ought to look at."""
    greys = [neighbours.grey(frame, (64, 64)) for frame in frames]
    seen = [neighbours.motion_of(greys, t, 0, len(greys), fast=fast) for t in range(len(greys))]
    motions = np.stack([each.channels for each in seen])
    scores = {}
    for start, kept in clips:
        part = motions[start : start + 5]
        part = np.concatenate([part, np.repeat(part[-1:], 5 - len(part), axis=0)])
        pairs = part[..., :10], part[..., 10:]
        found = mover._moving(*tiny, np.concatenate([pairs[k] for k in order], axis=-1))
        for t in kept:
            score = found[t - start] * neighbours.moves(motions[t])
            scores[t] = Moment(score, seen[t].back, seen[t].ahead)
    return [scores[t] for t in range(len(frames))]


def test_another_flow_takes_the_place_of_dis(small, monkeypatch):
    frames = clip(0, frames=6, size=(48, 60)).frames
    grey = np.repeat(frames[..., :1], 3, axis=-1)  # of which DIS and the other see the same
    asked = []

    def same(pair, t, u):
        asked.append(pair[t].shape)
        return _residual(pair[t][..., 0], pair[u][..., 0], False)

    monkeypatch.setitem(fields.ESTIMATORS, "same", same)
    motion = partial(small, colours=False, carry=False)
    found = list(motion(flow="same")(Video(grey)))
    np.testing.assert_allclose(found, list(motion()(Video(grey))), atol=1e-6)
    assert set(asked) == {(64, 64, 3)} and len(asked) == 4 * 6 - 6  # ends have half the neighbours
    monkeypatch.setitem(fields.ESTIMATORS, "none", lambda pair, t, u: 0 * same(pair, t, u))
    assert np.max(list(motion(flow="none")(Video(grey)))) == 0 < np.max(found)
    with pytest.raises(ValueError, match="There is no flow 'other'"):
        small(flow="other")


def twice(moments):
    return carried(carried(moments))


def whole_size(scores, frames):
    return [to_size(score, frames.shape[1:3]) for score in scores]


@pytest.mark.parametrize(
    ("count", "clips"),
    [
        (1, [(0, [0])]),
        (2, [(0, [0, 1])]),
        (5, [(0, range(5))]),
        (6, [(0, range(4)), (3, [4, 5])]),
        (9, [(0, range(4)), (3, range(4, 7)), (6, [7, 8])]),
    ],
)
def test_clips_overlap_and_every_frame_is_answered_once(small, tiny, count, clips):
    frames = clip(0, frames=count, size=(48, 60)).frames
    found = list(small(colours=False, carry=False)(Video(frames)))
    moments = by_hand(tiny, frames, clips)
    expected = whole_size([moment.scores for moment in moments], frames)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    found = list(small(colours=False)(Video(frames)))
    np.testing.assert_allclose(
        found, whole_size([moment.scores for moment in twice(moments)], frames), atol=1e-6
    )


@pytest.mark.parametrize(
    ("limits", "order"),
    [
        ((0.0, 1e9), [0, 1]),
        ((1e9, 1e9), [1, 0]),
        ((0.0, 0.0), [0, 0]),
    ],
)
def test_neighbours_suit_the_speed_of_what_is_found(tiny, limits, order, monkeypatch):
    monkeypatch.setattr(neighbours, "AREA", 64 * 64)
    monkeypatch.setattr(neighbours, "SLOW", limits[0])
    monkeypatch.setattr(neighbours, "QUICK", limits[1])
    frames = clip(0, frames=9, size=(48, 60)).frames
    clips = [(0, range(4)), (3, range(4, 7)), (6, [7, 8])]
    looks, look = [], mover._moving
    monkeypatch.setattr(mover, "_moving", lambda *given: looks.append(1) or look(*given))
    make = partial(mover.segmenter, *tiny, clip=5, margin=1, carry=False, refiner="none")
    list(make()(Video(frames)))
    assert len(looks) == len(clips), "not before colours, which gain nothing by it"
    for fast in (False, True):  # fast answers have no farther neighbours
        looks.clear()
        found = np.stack(list(make(fast=fast, colours=False)(Video(frames))))
        assert len(looks) == (3 if fast or order == [0, 1] else 6)
        moments = by_hand(tiny, frames, clips, fast=fast, order=order)
        expected = whole_size([moment.scores for moment in moments], frames)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_still_thing_and_a_quick_one_are_shown_otherwise(monkeypatch):
    monkeypatch.setattr(neighbours, "SLOW", 5.0)
    monkeypatch.setattr(neighbours, "QUICK", 9.0)
    motion = np.arange(20.0)
    np.testing.assert_array_equal(neighbours.suited(motion, 4.9), [*range(10, 20), *range(10)])
    np.testing.assert_array_equal(neighbours.suited(motion, 9.1), [*range(10), *range(10)])
    for speed in (5.1, 8.9, np.nan):
        assert neighbours.suited(motion, speed) is motion


def test_speed_is_that_of_what_is_found_and_nothing_has_none():
    length = np.array([[1.0, 2.0], [3.0, 100.0]], np.float32)
    seen = [neighbours.Seen(None, None, None, factor * length) for factor in (3, 5, 1)]
    scores = np.zeros((4, 2, 2), np.float32)  # the last one fills a clip up
    assert np.isnan(mover._speed(scores, seen))
    scores[0, 0] = 0.6, 0.9
    scores[1, 1, 0] = scores[2, 0, 1] = scores[3, 1, 1] = 0.8
    scores[:, 1, 1] = 0.4
    speeds = 3 * (0.6 * 1 + 0.9 * 2) / 1.5, 5 * 3.0, 1 * 2.0
    assert mover._speed(scores, seen) == pytest.approx(np.median(speeds))


def test_flow_goes_to_the_frame_before_and_to_the_one_after(small):
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (96, 160), np.uint8), (0, 0), 2)
    greys = [noise[:64, 8 * t : 8 * t + 96].copy() for t in range(3)]  # the camera goes right
    seen = neighbours.motion_of(greys, 1, 0, 3)
    np.testing.assert_allclose(np.median(seen.back, (0, 1)), [4, 0], atol=0.2)
    np.testing.assert_allclose(np.median(seen.ahead, (0, 1)), [-4, 0], atol=0.2)
    left = [np.linalg.norm(aligned(greys[1], greys[k]).residual, axis=-1) for k in (0, 2)]
    np.testing.assert_allclose(seen.length, np.mean(left, axis=0), rtol=1e-5)
    assert np.median(seen.length) < 0.3, "all of it is the camera's"
    fast = neighbours.motion_of(greys, 1, 0, 3, fast=True)  # to the same frames, in fewer rounds
    assert 0 < np.abs(fast.back - seen.back).max() < 1


def test_a_black_clip_gives_finite_scores(small):
    for scores in small()(Video(np.zeros((3, 40, 40, 3), np.uint8))):
        assert scores.shape == (40, 40) and np.isfinite(scores).all() and scores.max() < 0.5


@pytest.mark.parametrize("fast", [False, True])
def test_colours_are_those_of_each_frame_and_what_follows_them_is_carried_too(
    small, tiny, fast, monkeypatch
):
    monkeypatch.setattr(mover, "FAST_SHORTER", 24)
    frames = clip(0, frames=7, size=(48, 60)).frames
    moments = by_hand(tiny, frames, [(0, range(4)), (3, range(4, 7))], fast=fast)
    scores, shown = [moment.scores for moment in carried(moments)], (24, 30) if fast else (48, 60)
    followed = [
        moment._replace(scores=matched(cv2.resize(frame, shown[::-1], interpolation=3), score))
        for moment, frame, score in zip(moments, frames, scores, strict=True)
    ]
    found = list(small(fast=fast)(Video(frames)))
    for frame, heard, answer in zip(frames, carried(followed), found, strict=True):
        expected = settled(frame, to_size(heard.scores, (48, 60)))
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_the_refiner_is_told_all_that_is_known_of_each_frame(small, tiny, monkeypatch):
    frames = clip(0, frames=4, size=(48, 60)).frames
    plain = np.stack(list(small()(Video(frames))))
    told = []

    def turned(looked):
        told.append(looked)
        return 1 - looked.settled

    np.testing.assert_allclose(list(small(refiner=turned)(Video(frames))), 1 - plain, atol=1e-6)
    of_frame = {looked.picture.tobytes(): looked for looked in told}  # they come side by side
    for frame, answer in zip(frames, plain, strict=True):
        looked = of_frame[frame.tobytes()]
        np.testing.assert_allclose(looked.settled, answer, atol=1e-6)
        expected = settled(frame, looked.matched)
        np.testing.assert_allclose(expected, looked.settled, atol=1e-6)
    told.clear()
    list(small(refiner=turned, carry=False)(Video(frames)))
    of_frame = {looked.picture.tobytes(): looked for looked in told}
    for frame, moment in zip(frames, by_hand(tiny, frames, [(0, range(4))]), strict=True):
        looked = of_frame[frame.tobytes()]
        np.testing.assert_allclose(looked.own, to_size(moment.scores, (48, 60)), atol=1e-6)
        answer = to_size(matched(frame, moment.scores), (48, 60))
        np.testing.assert_allclose(looked.matched, answer, atol=1e-6)
    read = []
    monkeypatch.setattr(
        mover, "refiner_of", lambda source: read.append(source) or ("network", "weights")
    )
    monkeypatch.setattr(mover, "refining", lambda *given: read.append(given) or turned)
    for refiner, source in (("shipped", None), ("runs/mine", "runs/mine")):
        answers = list(small(refiner=refiner)(Video(frames)))
        np.testing.assert_allclose(answers, 1 - plain, atol=1e-6)
        assert read == [source, ("network", "weights")]
        read.clear()
    for without in ({"fast": True}, {"colours": False}):
        list(small(refiner="shipped", **without)(Video(frames)))
        with pytest.raises(ValueError, match=r"refiner=runs/mine .* leave it away, or fast and"):
            small(refiner="runs/mine", **without)
    np.testing.assert_allclose(list(small(refiner=None)(Video(frames))), plain, atol=1e-6)
    assert not read


def test_the_refiners_own_protocol_is_the_librarys_mover_with_it(small, tiny, monkeypatch):
    frames = clip(0, frames=3, size=(48, 60)).frames
    monkeypatch.setattr(mover, "of_the_library", lambda: tiny)
    monkeypatch.setattr(mover, "refining", lambda *given: lambda looked: given[0] * looked.settled)
    plain = mover.segmenter(*tiny, refiner="none")
    expected = np.stack(list(plain(Video(frames)))) / 4
    np.testing.assert_allclose(list(mover.refined(0.25, None)(Video(frames))), expected, atol=1e-6)


def test_nothing_is_kept_of_frames_that_are_answered(small):
    """A long video takes no more memory than a short one, with colours and without."""
    frames = clip(0, frames=40, size=(48, 60)).frames
    for colours in (True, False):
        made = small(colours=colours)(Video(frames))
        for _ in range(35):
            next(made)
        kept = made.gi_frame.f_locals
        if colours:
            kept = kept | made.gi_yieldfrom.gi_frame.f_locals
            assert 0 < len(kept["waiting"]) <= 30
        assert len(kept["pictures"]) <= 30
        made.close()


def test_a_clip_without_room_is_refused(tiny):
    with pytest.raises(ValueError, match="no frame between margins"):
        mover.segmenter(*tiny, clip=4)
    next(mover.segmenter(*tiny, clip=4, fast=True)(Video(clip(0, frames=2, size=(48, 60)).frames)))
