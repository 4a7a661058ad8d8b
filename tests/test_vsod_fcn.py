"""VSOD-FCN's pairs, maps, loss and protocol; its arithmetic is pinned by tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.samples import training_batches
from jaxvos.inference import fit
from jaxvos.recipe import flat, model_options, read_recipe
from jaxvos.system import initialise
from jaxvos.system import shapes as shapes_of
from jaxvos.systems import vsod_fcn
from jaxvos.typing import Video

TINY = {"width": 4, "convolutions": (1, 1, 1, 1, 1), "side": 4, "side_std": 0.3}
SIZE = (32, 48)


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def tiny():
    model = vsod_fcn.VSODFCN(**TINY)
    variables = initialise(vsod_fcn.SYSTEM, model, 0)
    for net in variables["params"].values():  # so that no answer is so sure that it is numb
        net["vgg"]["block1_conv1"]["kernel"] *= 0.02
    return model, variables


@pytest.fixture(scope="module")
def clip() -> jax.Array:
    """A prepared clip of two frames."""
    return vsod_fcn.prepare(jnp.asarray(np.stack(frames(2, SIZE)))[None])


def test_the_means_are_taken_off_in_the_wrong_order_as_released():
    picture = jnp.asarray([[[[10, 20, 30]]]], jnp.uint8)
    expected = [-93.68, -96.779, -93.939]
    np.testing.assert_allclose(vsod_fcn.prepare(picture)[0, 0, 0], expected, atol=1e-4)


def test_answers_are_at_a_fourth_an_eighth_and_a_sixteenth(tiny, clip):
    model, variables = tiny
    outputs = jax.eval_shape(model.apply, variables, clip)
    shapes = [(1, 8, 12, 1), (1, 4, 6, 1), (1, 2, 3, 1)]
    assert {k: [a.shape for a in v] for k, v in outputs.items()} == {
        "static": shapes,
        "dynamic": shapes,
    }
    assert [*jax.eval_shape(model.apply, variables, clip[:, :1])] == ["static"]


def test_finer_answers_hear_of_coarser_ones_and_not_the_other_way_round(tiny, clip):
    model, variables = tiny
    run = jax.jit(lambda v: model.apply(v, clip[:, 0], method="look"))
    before = run(variables)
    kernel = lambda n: ("static", f"sal_conv{n}", "bias")  # noqa: E731
    for number, changed in ((5, [True, True, True]), (4, [True, True, False])):
        net, layer, leaf = kernel(number)
        params = jax.tree.map(lambda x: x, variables["params"])
        params[net][layer][leaf] = params[net][layer][leaf] + 3.0
        after = run({"params": params})
        moved = [bool((a != b).any()) for a, b in zip(before, after, strict=True)]
        assert moved == changed


def test_the_dynamic_network_sees_both_frames_and_the_static_map_of_the_first(tiny, clip):
    model, variables = tiny
    outputs = jax.jit(model.apply)(variables, clip)
    prior = vsod_fcn.as_prior(outputs["static"][0], SIZE)
    compare = jax.jit(lambda *a: model.apply(variables, *a, method="compare")[0])
    first, second = clip[:, 0], clip[:, 1]
    own = compare(first, second, prior)
    np.testing.assert_allclose(own, outputs["dynamic"][0], atol=1e-5)
    for other in ((second, second, prior), (first, first, prior), (first, second, 0 * prior)):
        assert np.abs(compare(*other) - own).max() > 1e-4


def test_the_static_map_is_given_as_it_would_be_saved_but_for_rounding():
    logits = jax.random.normal(jax.random.key(0), (2, 8, 12, 1))
    ours = vsod_fcn.as_prior(logits, SIZE)
    for one, expected in zip(ours, jax.nn.sigmoid(logits)[..., 0], strict=True):
        np.testing.assert_allclose(one[..., 0], vsod_fcn.saved(expected, SIZE), atol=3)
        assert float(one.max()) == pytest.approx(255) and float(one.min()) >= 0
    flat_map = vsod_fcn.as_prior(jnp.zeros((1, 8, 12, 1)), SIZE)
    assert not flat_map.any() and not vsod_fcn.saved(np.full((8, 12), 0.5), SIZE).any()


def test_saved_maps_are_stretched_from_black_to_white_before_they_are_enlarged():
    scores = np.array([[0.25, 0.5], [0.5, 0.75]])
    np.testing.assert_array_equal(vsod_fcn.saved(scores, (2, 2)), [[0, 128], [128, 255]])
    large = vsod_fcn.saved(scores, (4, 4))
    assert large[0, 0] == 0 and large[3, 3] == 255
    np.testing.assert_allclose(large[0], [0, 32, 96, 128], atol=1)


def test_a_picture_of_any_other_shape_is_refused(tiny, clip):
    model, variables = tiny
    with pytest.raises(ValueError, match=r"multiples of 16, not \(33, 49\)"):
        model.apply(variables, jnp.zeros((1, 1, 33, 49, 3)))
    with pytest.raises(ValueError, match=r"2 frames .* or 1 .*not \(1, 3, 32, 48, 3\)"):
        model.apply(variables, jnp.zeros((1, 3, *SIZE, 3)))
    with pytest.raises(ValueError, match=r"multiples of 16, not \(224, 230\)"):
        vsod_fcn.segmenter(model, variables, size=(224, 230))


def test_loss_of_worked_numbers_weighs_each_kind_by_the_others_share():
    mask = jnp.zeros((2, 2, 2, 1)).at[0, 0, 0, 0].set(1.0)
    unsure = jnp.zeros(mask.shape)
    # One of four: 3/4 for it and 1/4 for each of the others; and nothing where there is nothing.
    one = (3 / 4 + 3 * 1 / 4) * np.log(2)
    np.testing.assert_allclose(vsod_fcn.balanced(unsure, mask), one / 2, rtol=1e-6)
    right, wrong = 2 * mask - 1, 1 - 2 * mask
    assert vsod_fcn.balanced(right, mask) < vsod_fcn.balanced(wrong, mask)
    np.testing.assert_allclose(
        vsod_fcn.balanced(right, mask), 1.5 * np.log1p(np.exp(-1)) / 2, rtol=1e-6
    )


def test_small_things_count_by_their_share_of_a_coarse_place():
    mask = jnp.zeros((1, *SIZE, 1)).at[0, 0:2, 0:2, 0].set(1.0)
    outputs = {"static": tuple(jnp.zeros((1, 32 // s, 48 // s, 1)) for s in (4, 8, 16))}
    total, metrics = vsod_fcn.loss(outputs, {"mask": mask})
    # At logit 0 all that counts is the share of the whole, the same at every size.
    share = 4 / (32 * 48)
    places = 8 * 12 + 4 * 6 + 2 * 3
    expected = 2 * share * (1 - share) * places * np.log(2)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["static_mae"], (95 * 0.5 + 0.25) / 96, rtol=1e-6)


def answers(value: float) -> tuple:
    return tuple(jnp.full((1, 32 // s, 48 // s, 1), value) for s in (4, 8, 16))


def test_pairs_are_trained_on_the_first_frames_mask_and_pictures_on_their_own():
    half = np.zeros((1, *SIZE, 1), np.float32)
    half[:, :, :16] = 1
    masks = np.stack([half, 1 - half], axis=1)
    both = {"static": answers(0.0), "dynamic": answers(0.0)}
    places = sum(a.size for a in both["static"])
    expected = places * 2 * (1 / 3) * (2 / 3) * np.log(2)
    cases = [
        ("dynamic", both, {"masks": masks}),
        ("static", {"static": both["static"]}, {"masks": masks[:, :1]}),
        ("static", both, {"mask": half}),
    ]
    for kind, outputs, batch in cases:
        total, metrics = vsod_fcn.loss(outputs, batch)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        assert {*metrics} == {f"{kind}_loss", f"{kind}_mae"}
        np.testing.assert_allclose(metrics[f"{kind}_mae"], 0.5, rtol=1e-6)
    sure = (jnp.asarray(40 * half[:, ::4, ::4] - 20), *both["dynamic"][1:])
    _, metrics = vsod_fcn.loss(both | {"dynamic": sure}, {"masks": masks})
    assert metrics["dynamic_mae"] < 1e-6


def test_a_step_on_pairs_teaches_the_dynamic_network_alone(tiny, clip):
    model, variables = tiny
    masks = jnp.zeros((1, 2, *SIZE, 1)).at[:, :, 4:20, 8:30].set(1.0)

    @jax.jit
    def moved(params):
        value = lambda p: vsod_fcn.loss(model.apply({"params": p}, clip), {"masks": masks})[0]  # noqa: E731
        return jax.tree.map(lambda g: jnp.abs(g).max(), jax.grad(value)(params))

    found = moved(variables["params"])
    assert all(g == 0 for g in jax.tree.leaves(found["static"]))
    assert all(g > 0 for g in jax.tree.leaves(found["dynamic"]))


def by_hand(model, variables, video, size):
    """The released program: all static maps are saved first, then pairs are read."""
    run = lambda method, *args: jax.nn.sigmoid(  # noqa: E731
        model.apply(variables, *args, method=method)[0]
    )[0, ..., 0]
    small = [vsod_fcn.prepare(jnp.asarray(fit(f, size)))[None] for f in video.frames]
    files = [
        vsod_fcn.saved(run("look", s), f.shape[:2])
        for s, f in zip(small, video.frames, strict=True)
    ]
    priors = [jnp.asarray(fit(p, size), jnp.float32)[None, ..., None] for p in files]
    last = len(small) - 1
    for t, frame in enumerate(video.frames):
        neighbour = small[t + 1 if t < last else t - 1]
        scores = run("compare", small[t], neighbour, priors[t])
        yield vsod_fcn.saved(scores, frame.shape[:2]) / 255


@pytest.mark.parametrize(("count", "batch"), [(2, 1), (5, 2)])
def test_protocol_equals_the_released_two_passes(tiny, count, batch):
    model, variables = tiny
    video = Video([f[: 40 - t] for t, f in enumerate(frames(count))])
    ours = list(vsod_fcn.segmenter(model, variables, size=SIZE, batch=batch)(video))
    for t, (scores, expected) in enumerate(
        zip(ours, by_hand(model, variables, video, SIZE), strict=True)
    ):
        assert scores.shape == (40 - t, 60) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1.01 / 255)
        assert scores.min() >= 0 and scores.max() == 1


def test_one_frame_alone_or_no_pairs_at_all_is_the_static_networks_word(tiny):
    model, variables = tiny
    video = Video(frames(3))
    static = list(vsod_fcn.segmenter(model, variables, size=SIZE, pairs=False, batch=2)(video))
    assert len(static) == 3
    for frame, scores in zip(video.frames, static, strict=True):
        (alone,) = vsod_fcn.segmenter(model, variables, size=SIZE)(Video([frame]))
        np.testing.assert_allclose(alone, scores, atol=1.01 / 255)
        picture = vsod_fcn.prepare(jnp.asarray(fit(frame, SIZE)))[None]
        logits = model.apply(variables, picture, method="look")[0]
        expected = vsod_fcn.saved(jax.nn.sigmoid(logits)[0, ..., 0], (40, 60))
        np.testing.assert_allclose(scores, expected / 255, atol=1.01 / 255)
    assert list(vsod_fcn.segmenter(model, variables, size=SIZE)(Video([]))) == []


def test_every_frame_is_decoded_once_and_nothing_compiles_anew_for_another_length(tiny):
    model, variables = tiny
    read = []

    class Read(list):
        def __getitem__(self, t):
            read.append(t)
            return super().__getitem__(t)

    segment = vsod_fcn.segmenter(model, variables, size=SIZE, batch=2)
    list(segment(Video(frames(3))))
    compiled = vsod_fcn._static._cache_size(), vsod_fcn._dynamic._cache_size()
    walk = segment(Video(Read(frames(8))))
    next(walk)
    assert read == [0, 1, 2, 3]  # two pairs, of static maps made two at a time
    assert len(list(walk)) == 7 and read == [*range(8)]
    assert (vsod_fcn._static._cache_size(), vsod_fcn._dynamic._cache_size()) == compiled


def test_the_full_networks_are_two_vggs_and_differ_in_the_first_layer_alone():
    made = shapes_of(vsod_fcn.SYSTEM, vsod_fcn.VSODFCN())["params"]
    static, dynamic = (sum(x.size for x in jax.tree.leaves(made[n])) for n in ("static", "dynamic"))
    vgg = 14_714_688
    sides = (512 * 9 + 1) + (512 * 9 + 1 + 256 * 9 + 1) * 64 + 2 * (65 * 9 + 1)
    assert static == vgg + sides
    assert dynamic == static + 4 * 64 * 9


def test_recipes_fit_the_model_and_both_stages_have_steps_to_train_on():
    modes = [read_recipe(f"configs/vsod_fcn.py{mode}") for mode in ("", ":static", ":smoke")]
    assert flat(read_recipe("configs/vsod_fcn.py:video")) == flat(modes[0])
    for config in modes:
        assert flat(config).keys() == flat(modes[0]).keys()
        shapes_of(vsod_fcn.SYSTEM, vsod_fcn.VSODFCN(**model_options(config)))
    config = modes[2]
    batches = training_batches(config.data, batch=2, seed=0)
    image, video = next(batches), next(batches)
    batches.close()
    assert image["frames"].shape == (2, 1, 32, 48, 3) and image["mask"].shape == (2, 32, 48, 1)
    assert video["frames"].shape == (2, 2, 32, 48, 3) and video["masks"].shape == (2, 2, 32, 48, 1)
    assert (video["frames"][:, 0] != video["frames"][:, 1]).any()
