"""AGS's attention, measures, loss and protocol; tests/parity pins its arithmetic."""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos.clip_protocol import squash
from jaxvos.inference import to_size
from jaxvos.layers.psp_resnet import PSPResNet
from jaxvos.system import initialise, shapes
from jaxvos.systems import ags
from jaxvos.typing import Video

SIZE = (33, 49)
TINY = {
    "depths": (1, 1, 1, 1),
    "width": 4,
    "widths": (6, 5, 4),
    "attention": (6, 5, 4),
    "size": SIZE,
}


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def lively(variables, seed=0):
    """The same tree with larger random numbers, so that every part of the network matters."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(lambda a: a + 0.2 * draw(a), variables["params"])
    params["resnet"]["stem_conv1"]["kernel"] *= 0.01  # pictures are in 0..255
    return {**variables, "params": params}


@pytest.fixture(scope="module")
def tiny():
    model = ags.AGS(**TINY)
    return model, lively(initialise(ags.SYSTEM, model, 0))


@partial(jax.jit, static_argnames=("model", "train"))
def run(model, variables, clips, train=False):
    """Outputs and changed variables for clips [B, T, H, W, 3] uint8."""
    return model.apply(
        variables, ags.prepare(clips), train=train, mutable=["batch_stats", "intermediates"]
    )


def clip(count: int) -> np.ndarray:
    return np.stack([squash(f, SIZE) for f in frames(count)])[None]


def maps(*values) -> jnp.ndarray:
    """Frames of 1 x n pixels as [1, T, 1, n, 1]."""
    return jnp.asarray(values, jnp.float32)[None, :, None, :, None]


def logits_of(*probabilities) -> jnp.ndarray:
    p = maps(*probabilities)
    return jnp.log(p) - jnp.log1p(-p)


# The network.


def test_the_attention_of_a_frame_depends_on_those_before_it_and_not_on_those_after(tiny):
    model, variables = tiny
    plain = run(model, variables, clip(3))[0]["attention"]
    for changed in range(3):
        other = clip(3)
        other[:, changed] = 255 - other[:, changed]
        moved = np.abs(run(model, variables, other)[0]["attention"] - plain).max(axis=(0, 2, 3, 4))
        np.testing.assert_array_equal(moved > 1e-6, np.arange(3) >= changed)


def test_the_mask_is_led_by_the_attention(tiny):
    model, variables = tiny
    outputs, inside = run(model, variables, clip(2))
    inside = inside["intermediates"]
    by_hand = inside["aspp3_out"][0][None] * (1 + inside["gate"][0])
    np.testing.assert_allclose(inside["gated"][0], by_hand, rtol=1e-6)
    params = {**variables["params"]}
    params["dvap"] = {
        **params["dvap"],
        "conv7": jax.tree.map(lambda a: -a, params["dvap"]["conv7"]),
    }
    turned = run(model, {**variables, "params": params}, clip(2))[0]
    np.testing.assert_allclose(turned["attention"], -outputs["attention"], atol=1e-5)
    assert (np.abs(turned["saliency"] - outputs["saliency"]) > 1e-4).any()


def test_pooled_windows_over_the_edge_are_means_of_what_they_hold():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    means = ags.mean_windows(x, 2)[0, ..., 0]
    np.testing.assert_allclose(means, [[3, 5, 6.5], [10.5, 12.5, 14]])
    np.testing.assert_allclose(ags.mean_windows(x, 8)[0, 0, 0, 0], 7)


def test_the_attention_size_is_what_the_network_gives():
    for size in ((33, 49), (34, 50), (35, 51), (36, 52), (37, 53), (40, 41)):
        found = jax.eval_shape(
            lambda x: ags.AGS(**TINY).init(jax.random.key(0), x), jnp.zeros((1, 1, *size, 3))
        )
        assert found["params"]["dvap"]["lstm"]["peephole_i"].shape == ags.attention_size(size)
    assert ags.attention_size((473, 473)) == (30, 30)


def test_the_stride_of_the_third_stage_is_in_its_3x3_convolution():
    def first_convolution(resnet):
        x, key = jnp.zeros((1, 33, 33, 3)), jax.random.key(0)
        shown = lambda: resnet.init_with_output(  # noqa: E731
            key, x, False, mutable=True, capture_intermediates=True
        )
        stage = jax.eval_shape(shown)[1]["intermediates"]["stage3"]["block0"]
        return stage["conv1"]["__call__"][0].shape[1:3]

    model = ags.AGS(**TINY)
    resnet = PSPResNet(model.depths, model.width, stride_in_3x3=True)
    assert first_convolution(resnet) == (9, 9)
    assert first_convolution(resnet.copy(stride_in_3x3=False)) == (5, 5)


def test_frozen_batch_norm_is_the_same_in_training(tiny):
    model, variables = tiny
    outputs, changed = run(model, variables, clip(2), train=True)
    plain, _ = run(model, variables, clip(2))
    np.testing.assert_array_equal(outputs["saliency"], plain["saliency"])
    jax.tree.map(np.testing.assert_array_equal, changed["batch_stats"], variables["batch_stats"])


def test_bfloat16_keeps_float32_parameters_and_answers(tiny):
    model, variables = tiny
    half = model.copy(dtype="bfloat16")
    made = shapes(ags.SYSTEM, half)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    ours, theirs = (run(m, variables, clip(2))[0] for m in (model, half))
    for name in ("attention", "saliency"):
        a, b = jax.nn.sigmoid(ours[name]), jax.nn.sigmoid(theirs[name])
        assert b.dtype == jnp.float32 and 0 < np.abs(a - b).max() < 0.05


# The measures.


def test_measures_of_worked_maps():
    a, p = (0.2, 0.4, 0.6, 0.8), (0.1, 0.1, 0.4, 0.4)
    logits, target = logits_of(a), maps(p)
    share_a, share_p = np.array(a) / 2, np.array(p)
    ce = -np.mean(np.array(p) * np.log(a) + (1 - np.array(p)) * np.log(1 - np.array(a)))
    expected = {
        "ce": (ags.attention_ce, ce),
        "kl": (ags.kullback_leibler, np.sum(share_p * np.log(share_p / share_a))),
        "cc": (ags.correlation, np.corrcoef(a, p)[0, 1]),
        "sim": (ags.similarity, np.minimum(share_a, share_p).sum()),
    }
    for name, (measure, value) in expected.items():
        np.testing.assert_allclose(measure(logits, target)[0, 0], value, rtol=1e-5, err_msg=name)
    points = maps((0, 1, 0, 1))
    z = (np.array(a) - 0.5) / np.std(a)
    nss = ags.scanpath_saliency(logits, points)[0, 0]
    np.testing.assert_allclose(nss, (z[1] + z[3]) / 2, rtol=1e-5)


def test_a_perfect_attention_has_the_best_of_every_measure():
    p = (0.1, 0.7, 0.3, 0.5)
    logits, target = logits_of(p), maps(p)
    np.testing.assert_allclose(ags.kullback_leibler(logits, target), 0, atol=1e-6)
    np.testing.assert_allclose(ags.correlation(logits, target), 1, rtol=1e-5)
    np.testing.assert_allclose(ags.similarity(logits, target), 1, rtol=1e-5)


def test_pixels_that_nobody_looked_at_and_extreme_logits_give_finite_measures_and_gradients():
    target, points = maps((0.0, 1.0, 0.0, 0.5)), maps((0, 1, 0, 0))
    for logits in (
        maps((-200, 200, -200, 200)),
        maps((0, 0, 0, 0)),
        maps((-200, -200, -200, -200)),
    ):
        batch = {"fixation_map": target, "fixations": points}

        def total(logits, batch=batch):
            terms = ags.attention_terms(logits, batch)
            return sum(terms.values()), terms

        gradient, terms = jax.grad(total, has_aux=True)(logits)
        assert np.isfinite(gradient).all() and np.isfinite(list(terms.values())).all()


def test_frames_without_fixations_count_for_nothing():
    seen, empty = (0.1, 0.7, 0.3, 0.5), (0.0, 0.0, 0.0, 0.0)
    logits = logits_of((0.2, 0.4, 0.6, 0.8), (0.9, 0.1, 0.2, 0.3))
    points, none = (0, 1, 0, 0), (0, 0, 0, 0)
    alone = ags.attention_terms(
        logits[:, :1], {"fixation_map": maps(seen), "fixations": maps(points)}
    )
    both = ags.attention_terms(
        logits, {"fixation_map": maps(seen, empty), "fixations": maps(points, none)}
    )
    for name, value in alone.items():
        np.testing.assert_allclose(both[name], value, rtol=1e-6, err_msg=name)
    assert both["frames"] == 1
    blurred = {"fixation_map": maps(seen, seen), "fixations": maps(points, none)}
    np.testing.assert_allclose(ags.attention_terms(logits, blurred)["nss"], alone["nss"], rtol=1e-6)
    assert ags.attention_terms(logits, blurred)["frames"] == 2
    nothing = {"fixation_map": maps(empty, empty), "fixations": maps(none, none)}
    assert set(map(float, ags.attention_terms(logits, nothing).values())) == {0.0}


# The loss.


def outputs_of(shape=(1, 2, 1, 4, 1), seed=0):
    numbers = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    return {"attention": jnp.asarray(numbers[0]), "saliency": jnp.asarray(numbers[1])}


def test_the_loss_is_the_sum_of_what_the_batch_has():
    outputs = outputs_of()
    masks = maps((0, 1, 0, 0), (1, 1, 0, 0))
    eyes = {"fixation_map": maps((0.1, 0.7, 0.3, 0.5), (0.5, 0.2, 0.1, 0.1))}
    eyes["fixations"] = maps((0, 1, 0, 0), (1, 0, 0, 0))
    terms = ags.attention_terms(outputs["attention"], eyes)
    led = terms["ce"] - 0.1 * (terms["nss"] + terms["sim"] + terms["cc"])
    total, metrics = ags.loss(outputs, eyes)
    np.testing.assert_allclose(total, led, rtol=1e-6)
    assert {"video_loss", "attention_kl", "attention_frames"} <= metrics.keys()
    cut = ags.cross_entropy(outputs["saliency"], masks)
    np.testing.assert_allclose(ags.loss(outputs, eyes | {"masks": masks})[0], cut + led, rtol=1e-6)
    without = {"fixation_map": eyes["fixation_map"], "masks": masks}
    expected = cut + led + 0.1 * terms["nss"]
    np.testing.assert_allclose(ags.loss(outputs, without)[0], expected, rtol=1e-5)


def test_masks_alone_will_do_and_that_is_said(caplog):
    outputs, masks = outputs_of(), maps((0, 1, 0, 0), (1, 1, 0, 0))
    with caplog.at_level(logging.WARNING):
        total, metrics = ags.loss(outputs, {"masks": masks})
    assert "no fixation data in these video steps" in caplog.text
    np.testing.assert_allclose(total, ags.cross_entropy(outputs["saliency"], masks))
    assert list(metrics) == ["video_loss"]
    caplog.clear()
    still = {"mask": masks[:, 0], "fixation_map": maps((0.1, 0.7, 0.3, 0.5))}
    total, metrics = ags.loss(outputs, still)
    assert not caplog.text and "image_loss" in metrics
    copies = {
        "masks": jnp.broadcast_to(masks[:, :1], masks.shape),
        "fixation_map": jnp.broadcast_to(still["fixation_map"], masks.shape),
    }
    np.testing.assert_allclose(total, ags.loss(outputs, copies)[0], rtol=1e-6)


def test_a_batch_to_learn_nothing_from_is_refused():
    with pytest.raises(ValueError, match=r"masks or fixation_map; the batch has \['frames'\]"):
        ags.loss(outputs_of(), {"frames": jnp.zeros(1)})


def test_the_attention_learns_from_masks_alone_through_the_gate(tiny):
    model, variables = tiny
    mask = (jnp.arange(49) > 20).astype(jnp.float32).reshape(1, 1, 49, 1)
    batch = {"mask": jnp.broadcast_to(mask, (1, *SIZE, 1))}

    @jax.jit
    def gradient(attention):
        def value(attention):
            params = {**variables["params"], "dvap": attention}
            answers = model.apply({**variables, "params": params}, ags.prepare(clip(1)))
            return ags.loss(answers, batch)[0]

        return jax.grad(value)(attention)

    found = gradient(variables["params"]["dvap"])
    moved = {k: sum(jnp.abs(g).sum() for g in jax.tree.leaves(v)) for k, v in found.items()}
    assert len(moved) == 5 and all(value > 0 for value in moved.values()), moved


# The protocol.


def test_the_protocol_is_the_network_on_clips_of_three_compiled_once(tiny):
    model, variables = tiny
    segment = ags.segmenter(model, variables, stretch=False)
    scores = list(segment(Video(frames(4))))
    compiled = ags._saliency._cache_size()
    small = [squash(f, SIZE) for f in frames(4)]
    first, last = (
        np.asarray(
            jax.nn.sigmoid(
                run(model, variables, np.stack([small[t] for t in c])[None])[0]["saliency"]
            )
        )[0, ..., 0]
        for c in ((0, 1, 2), (3, 2, 1))
    )
    for ours, theirs in zip(scores, [first[0], last[2], last[1], last[0]], strict=True):
        assert ours.shape == (40, 60) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, to_size(theirs, (40, 60)), atol=1e-5)
    assert [s.shape for s in segment(Video(frames(1)))] == [(40, 60)]
    assert ags._saliency._cache_size() == compiled


def test_stretched_maps_reach_from_0_to_1(tiny):
    for scores in ags.segmenter(*tiny)(Video(frames(2))):
        assert (scores.min(), scores.max()) == (0, 1)


def test_pictures_of_another_size_are_refused_by_the_network_and_fitted_by_the_segmenter(tiny):
    model, variables = tiny
    with pytest.raises(ValueError, match=r"peephole_\w is for maps of 3 x 4, .* give 4 x 4"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 2, 49, 49, 3)))
    with pytest.warns(UserWarning, match="on maps of 3 x 4 are resized to 4 x 4"):
        segment = ags.segmenter(model, variables, size=(49, 49))
    assert len(list(segment(Video(frames(2))))) == 2
