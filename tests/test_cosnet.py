"""COSNet's protocol, variants and loss; its arithmetic is pinned by tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvos.davis_layout import list_sequences, read_labels
from jaxvos.inference import batched, draw_references
from jaxvos.losses import balanced_bce, l1
from jaxvos.metrics.davis import region_similarity
from jaxvos.system import initialise
from jaxvos.systems import cosnet
from jaxvos.typing import Video
from jaxvos.video import open_video

TINY = {"depths": (1, 1, 1, 1), "width": 4, "branch": 8, "features": 8}
SIZE = (33, 49)


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def tiny():
    model = cosnet.COSNet(**TINY)
    return model, initialise(cosnet.SYSTEM, model, 0)


def outputs(model, variables, pictures):
    prepared = [cosnet.prepare(jnp.asarray(p)[None, :33, :49]) for p in pictures]
    return jax.jit(model.apply)(variables, *prepared)


def test_prepared_pictures_are_bgr_minus_the_mean():
    red = jnp.asarray([[[[255, 0, 0]]]], jnp.uint8)
    np.testing.assert_allclose(
        cosnet.prepare(red)[0, 0, 0], [-104.00699, -116.66877, 255 - 122.67892], atol=1e-4
    )


def test_blockwise_network_answers_as_the_whole_one(tiny):
    model, variables = tiny
    pair = frames(2)
    whole = outputs(model, variables, pair)
    blocks = outputs(model.copy(block=8), variables, pair)
    for name in whole:
        np.testing.assert_allclose(blocks[name], whole[name], atol=1e-5)


def test_swapping_the_frames_changes_whose_encoder_output_comes_third(tiny):
    model, variables = tiny
    a, b = frames(2)
    third = outputs(model, variables, (a, b))["encoder"]
    own = outputs(model, variables, (b, b))["encoder"]
    np.testing.assert_allclose(third, own, atol=1e-5)


def test_without_coattention_the_reference_does_not_matter():
    model = cosnet.COSNet(**TINY, coattention=False)
    variables = initialise(cosnet.SYSTEM, model, 0)
    assert "linear_e" not in variables["params"]
    a, b, c = frames(3)
    first = outputs(model, variables, (a, b))["target"]
    np.testing.assert_array_equal(first, outputs(model, variables, (a, c))["target"])


def test_loss_of_a_batch_without_any_object_is_finite_and_falls_with_the_logits():
    mask = jnp.zeros((2, 4, 4, 1))
    values = [balanced_bce(jnp.full(mask.shape, v), mask) for v in (0.0, -3.0)]
    assert np.isfinite(values).all() and values[1] < values[0]


def test_loss_of_a_quarter_of_object_is_weighted_by_four():
    mask = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1.0)
    unsure = jnp.zeros(mask.shape)
    np.testing.assert_allclose(balanced_bce(unsure, mask), 4 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(l1(unsure, mask), 0.5, rtol=1e-6)
    total, _ = cosnet.loss({"target": unsure}, {"target_mask": mask})
    np.testing.assert_allclose(total, 4 * np.log(2) + 0.8 * 0.5, rtol=1e-6)


def test_image_steps_train_the_encoder_alone(tiny):
    model, variables = tiny
    picture = cosnet.prepare(jnp.asarray(frames(1)[0])[None, :33, :49])
    mask = (picture[..., :1] > 0).astype(jnp.float32)

    @jax.jit
    def gradient(params):
        def value(params):
            answers = model.apply({**variables, "params": params}, picture, picture)
            return cosnet.loss(answers, {"mask": mask})[0]

        return jax.grad(value)(params)

    moved = {
        k: float(sum(jnp.abs(g).sum() for g in jax.tree.leaves(v)))
        for k, v in gradient(variables["params"]).items()
    }
    assert moved["encoder"] > 0
    assert [moved[k] for k in ("linear_e", "gate", "head1", "head2")] == [0, 0, 0, 0]


def by_hand(model, variables, video, chosen):
    """The released schedule: both frames of every pair through the whole network."""
    call = jax.jit(
        lambda a, b: jax.nn.sigmoid(
            model.apply(variables, cosnet.prepare(a), cosnet.prepare(b))["target"]
        )
    )
    small = [cosnet.fit(f, SIZE)[None] for f in video.frames]
    for t, row in enumerate(chosen):
        yield np.mean([call(small[t], small[r])[0, ..., 0] for r in row], axis=0)


def test_protocol_equals_the_released_schedule_of_whole_pairs(tiny):
    model, variables = tiny
    video = Video(frames(5))
    ours = list(cosnet.segmenter(model, variables, size=SIZE, references=3, seed=1, batch=2)(video))
    _, chosen = draw_references(5, 3, 128, 1)
    for scores, expected in zip(ours, by_hand(model, variables, video, chosen), strict=True):
        assert scores.shape == (40, 60) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, cosnet.to_size(expected, (40, 60)), atol=1e-5)


def test_any_length_compiles_once_and_encodes_every_frame_once(tiny, monkeypatch):
    model, variables = tiny
    seen = {"encode": 0, "compare": 0}
    for name in seen:
        original = getattr(cosnet, f"_{name}")

        def counting(*args, _name=name, _original=original, **options):
            seen[_name] += 1
            return _original(*args, **options)

        counting.sizes = original._cache_size
        monkeypatch.setattr(cosnet, f"_{name}", counting)
    cosnet._encode.sizes(), cosnet._compare.sizes()
    segment = cosnet.segmenter(model, variables, size=SIZE, references=2, batch=2, pool=4)
    list(segment(Video(frames(4))))
    compiled = cosnet._encode.sizes(), cosnet._compare.sizes()
    seen.update(encode=0, compare=0)
    assert len(list(segment(Video(frames(7))))) == 7
    # 4 candidates and 3 others, two at a time; 7 comparisons, two at a time
    assert seen == {"encode": 2 + 2, "compare": 4}
    assert (cosnet._encode.sizes(), cosnet._compare.sizes()) == compiled


@pytest.mark.parametrize("count", [1, 2])
def test_videos_shorter_than_the_references_work(tiny, count):
    model, variables = tiny
    results = list(cosnet.segmenter(model, variables, size=SIZE)(Video(frames(count, (1, 1)))))
    assert [r.shape for r in results] == [(1, 1)] * count
    assert all(0 <= r.min() <= r.max() <= 1 for r in results)


def test_group_protocol_compares_with_all_references_at_once():
    model = cosnet.COSNet(**TINY, group=True)
    variables = initialise(cosnet.SYSTEM, model, 0)
    video = Video(frames(3))
    ours = next(cosnet.segmenter(model, variables, size=SIZE, references=2)(video))
    _, chosen = draw_references(3, 2, 128, 0)
    small = [cosnet.prepare(jnp.asarray(cosnet.fit(f, SIZE))) for f in video.frames]
    references = jnp.stack([small[r] for r in chosen[0]])[None]
    logits = model.apply(variables, small[0][None], references)["target"]
    expected = cosnet.to_size(np.asarray(jax.nn.sigmoid(logits))[0, ..., 0], (40, 60))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = initialise(cosnet.SYSTEM, half, 0)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    pair = frames(2)
    a, b = (jax.nn.sigmoid(outputs(m, variables, pair)["target"]) for m in (model, half))
    assert 0 < np.abs(a - b).max() < 0.02


def test_references_are_distinct_seeded_and_drawn_from_a_bounded_pool():
    candidates, chosen = draw_references(50, 5, 8, 3)
    assert len(candidates) == 8 and chosen.shape == (50, 5)
    assert all(
        len(set(row)) == 5 and set(row) <= set(candidates.tolist()) for row in chosen.tolist()
    )
    np.testing.assert_array_equal(chosen, draw_references(50, 5, 8, 3)[1])
    assert (chosen != draw_references(50, 5, 8, 4)[1]).any()
    with pytest.raises(ValueError, match="pool=3"):
        draw_references(50, 5, 3, 0)


def test_batched_pads_the_last_call_and_yields_nothing_for_the_padding():
    calls = []

    def double(x):
        calls.append(x.shape)
        return 2 * x

    results = list(batched(double, (np.full(2, i) for i in range(5)), batch=3))
    assert calls == [(3, 2), (3, 2)]
    np.testing.assert_array_equal(results, [[2 * i] * 2 for i in range(5)])


def learned(model, pictures, masks, steps):
    """Variables after some steps of Adam on pairs of neighbours of a few real frames."""
    variables = initialise(cosnet.SYSTEM, model, 0)
    batch = {
        "target": cosnet.prepare(pictures),
        "reference": cosnet.prepare(jnp.roll(pictures, 1, axis=0)),
        "target_mask": masks,
        "reference_mask": jnp.roll(masks, 1, axis=0),
    }
    adam = optax.adam(5e-3)

    @jax.jit
    def step(params, statistics, moments):
        def loss(params):
            both = {"params": params, "batch_stats": statistics}
            outputs, new = model.apply(
                both, batch["target"], batch["reference"], train=True, mutable=["batch_stats"]
            )
            return cosnet.loss(outputs, batch)[0], new["batch_stats"]

        gradient, statistics = jax.grad(loss, has_aux=True)(params)
        updates, moments = adam.update(gradient, moments)
        return optax.apply_updates(params, updates), statistics, moments

    state = variables["params"], variables["batch_stats"], adam.init(variables["params"])
    for _ in range(steps):  # a loop inside the program takes ten times as long on a CPU
        state = step(*state)
    return {"params": state[0], "batch_stats": state[1]}


@pytest.mark.slow
def test_masks_in_bfloat16_are_those_in_float32_on_real_frames(shared_data):
    (files,) = list_sequences(shared_data / "data/davis16_tiny", names=["blackswan"])
    video = open_video(files.frames)
    size = (65, 113)
    truths = [read_labels(path) != 0 for path in files.masks]
    pictures = jnp.stack([cosnet.fit(frame, size) for frame in video.frames[::4]])
    small = [cosnet.to_size(truth, size) > 0.5 for truth in truths[::4]]
    model = cosnet.COSNet(
        depths=(1, 1, 1, 1), width=6, strides=(1, 1, 1, 1), branch=16, features=16, head_std=0.1
    )
    masks = jnp.stack(small)[..., None].astype(jnp.float32)
    variables = learned(model, pictures, masks, steps=80)
    whole, half = (
        [scores > 0.5 for scores in cosnet.segmenter(each, variables, size=size)(video)]
        for each in (model, model.copy(dtype="bfloat16"))
    )
    same = [region_similarity(a, b) for a, b in zip(whole, half, strict=True)]
    # Else the agreement would be about noise, or about nothing.
    found = [region_similarity(m, truth) for m, truth in zip(whole, truths, strict=True)]
    assert np.mean(found) > 0.7, found
    assert min(same) > 0.99, same
    assert any((a != b).any() for a, b in zip(whole, half, strict=True))
