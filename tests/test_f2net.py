"""F2Net's centre maps, matching, loss and protocol; its arithmetic is pinned by tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvos import motion_clue
from jaxvos.inference import fit, to_size
from jaxvos.layers.centre_branch import Heat
from jaxvos.layers.centres import bell, focal, heat_map, peaks
from jaxvos.layers.fusion import KINDS, DynamicFusion
from jaxvos.layers.resize import logits_at
from jaxvos.layers.resnet import ResNet
from jaxvos.recipe import model_options, read_recipe
from jaxvos.system import initialise
from jaxvos.systems import f2net
from jaxvos.typing import Video

TINY = {
    "depths": (1, 1, 1, 1),
    "width": 4,
    "branch": 8,
    "features": 8,
    "cross": 4,
    "squeezed": 4,
    "head_std": 0.3,
}
SIZE = (33, 49)
GRID = (9, 13)


def frames(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def box(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A mask [1, H, W, 1] with ones in boxes (top, bottom, left, right), half open."""
    mask = np.zeros((1, *size, 1), np.float32)
    for top, bottom, left, right in boxes:
        mask[0, top:bottom, left:right] = 1
    return mask


@pytest.fixture(scope="module")
def tiny():
    model = f2net.F2Net(**TINY)
    return model, initialise(f2net.SYSTEM, model, 0)


@pytest.fixture(scope="module")
def clip():
    pictures = np.stack(frames(6, SIZE)).reshape(2, 3, *SIZE, 3)
    masks = np.stack([box(SIZE, (2 + i, 20, 5 * i + 5, 30)) for i in range(3)], axis=1)
    return {"frames": jnp.asarray(pictures), "masks": jnp.asarray(np.repeat(masks, 2, axis=0))}


def given(batch):
    """What the network is called with."""
    return [prepare(batch[name]) for name, prepare in f2net.SYSTEM.inputs.items()]


def drawn_by_hand(mask, size):
    """CornerNet's recipe step by step, with Pillow's own nearest filter."""
    small = Image.fromarray(mask[0, ..., 0].astype(np.uint8)).resize(size[::-1], 0)
    y, x = np.nonzero(np.asarray(small))
    x1, x2, y1, y2 = (x.min(), x.max() + 1, y.min(), y.max() + 1) if len(x) else (0, 0, 0, 0)
    h, w, o = y2 - y1, x2 - x1, 0.7
    r1 = (h + w + np.sqrt((h + w) ** 2 - 4 * w * h * (1 - o) / (1 + o))) / 2
    r2 = (2 * (h + w) + np.sqrt(4 * (h + w) ** 2 - 16 * (1 - o) * w * h)) / 2
    b = -2 * o * (h + w)
    r3 = (b + np.sqrt(b**2 - 16 * o * (o - 1) * w * h)) / 2
    radius, cx, cy = int(min(r1, r2, r3)), int((x1 + x2) / 2), int((y1 + y2) / 2)
    heat, sigma = np.zeros(size), (2 * radius + 1) / 6
    for i in range(max(cy - radius, 0), min(cy + radius + 1, size[0])):
        for j in range(max(cx - radius, 0), min(cx + radius + 1, size[1])):
            heat[i, j] = np.exp(-((i - cy) ** 2 + (j - cx) ** 2) / (2 * sigma**2))
    return heat


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((33, 49), [(3, 20, 7, 30)]),
        ((97, 160), [(0, 97, 0, 160)]),
        ((97, 160), [(90, 97, 3, 9), (10, 12, 100, 140)]),
        ((160, 97), [(40, 141, 0, 20)]),
        ((33, 49), []),
    ],
)
def test_heat_maps_are_cornernets_of_one_box_around_all_foreground(size, boxes):
    mask = box(size, *boxes)
    grid = f2net.heat_size(size)
    ours = heat_map(jnp.asarray(mask), grid)[0, ..., 0]
    np.testing.assert_allclose(ours, drawn_by_hand(mask, grid), atol=1e-6)
    assert (np.asarray(ours) == 1).sum() == 1


def test_the_worked_mask_has_its_centre_and_radius_on_the_grid():
    mask = box((473, 473), (100, 260, 180, 330), (300, 340, 90, 140))
    ours = heat_map(jnp.asarray(mask), (119, 119))
    expected = bell(*(jnp.asarray([n]) for n in (53, 55, 16)), (119, 119))
    np.testing.assert_array_equal(ours, expected)
    assert (np.asarray(ours) > 0).sum() == 33 * 33


def test_a_mask_without_foreground_has_a_single_one_in_the_corner():
    ours = np.asarray(heat_map(jnp.zeros((1, *SIZE, 1)), GRID))
    assert ours[0, 0, 0, 0] == 1 and ours.sum() == 1


@pytest.mark.parametrize("size", [(33, 49), (97, 160), (152, 113), (473, 473), (34, 48), (35, 31)])
def test_heat_maps_have_the_first_stages_size(size):
    model = ResNet((1, 1, 1, 1), 1, every_stage=True)
    stages, _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, *size, 3)), False)
    )
    assert stages[0].shape[1:3] == f2net.heat_size(size)


def test_peaks_are_the_local_maxima_best_first():
    heat = np.full((1, 6, 7, 1), 0.1, np.float32)
    heat[0, 1, 2], heat[0, 1, 3], heat[0, 4, 6], heat[0, 3, 0] = 0.9, 0.8, 0.5, 0.7
    found = peaks(jnp.asarray(heat), 3)
    expected = [[0.9, 2, 1], [0.7, 0, 3], [0.5, 6, 4]]  # not 0.8, beside the highest
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_focal_loss_of_worked_numbers_is_a_sum_per_centre():
    heat = jnp.asarray([1.0, 0.5, 0.0]).reshape(1, 1, 3, 1)
    logits = jnp.asarray([0.0, 0.0, -20.0]).reshape(heat.shape)
    far = -np.log(1 - 1e-4) * 1e-4**2
    one = np.log(2) / 4 + np.log(2) / 4 / 16 + far
    np.testing.assert_allclose(focal(logits, heat), one, rtol=1e-5)
    np.testing.assert_allclose(focal(*(jnp.tile(x, (3, 1, 1, 1)) for x in (logits, heat))), one)
    without = np.log(2) / 4 * (1 + 1 / 16) + far
    np.testing.assert_allclose(focal(logits, heat.at[0, 0, 0].set(0.0)), without, rtol=1e-5)


def test_the_network_is_given_the_previous_mask_and_no_other():
    masks = np.stack([box(SIZE, (2, 20, 5 * i + 5, 30)) for i in range(3)], axis=1)
    ours = f2net.previous_heat(jnp.asarray(masks))
    np.testing.assert_array_equal(ours, heat_map(jnp.asarray(masks[:, 1]), GRID))
    still = f2net.previous_heat(jnp.asarray(masks[:, 2:]))
    np.testing.assert_array_equal(still, heat_map(jnp.asarray(masks[:, 2]), GRID))


def test_the_previous_heat_map_moves_the_heat_and_the_masks_only_through_the_prior(tiny, clip):
    model, variables = tiny[0], jax.tree.map(jnp.copy, tiny[1])
    # Else the looks, of random weights, decide on the peak.
    variables["params"]["heat"]["classifier"]["kernel"] *= 0.0
    pictures, heat = given(clip)
    other = jnp.flip(heat, axis=2)
    for prior in (False, True):
        call = jax.jit(model.copy(prior=prior).apply)
        a, b = call(variables, pictures, heat), call(variables, pictures, other)
        unseen = call(variables, pictures.at[:, 1].set(0.0), heat)
        jax.tree.map(np.testing.assert_array_equal, a, unseen)  # the previous picture
        assert np.abs(a["heat"] - b["heat"]).max() > 1e-2
        np.testing.assert_array_equal(a["encoder"], b["encoder"])
        moved = np.abs(a["current"] - b["current"]).max()
        assert moved > 1e-4 if prior else moved == 0


def test_a_prior_leaves_only_the_frames_own_features_where_it_is_zero(tiny):
    model, variables = tiny
    a, b = jax.random.normal(jax.random.key(1), (2, 1, 5, 7, 8))

    @jax.jit
    def fused(prior):
        _, inside = model.apply(variables, a, b, prior, method="match", capture_intermediates=True)
        return inside["intermediates"]["weigh"]["total"][0]

    whole = fused(jnp.ones((1, 5, 7, 1)))
    half = fused(jnp.ones((1, 5, 7, 1)).at[:, :, 3:].set(0.0))
    np.testing.assert_allclose(half[:, :, 3:], b[:, :, 3:], atol=1e-6)
    np.testing.assert_allclose(half[:, :, :3], whole[:, :, :3], atol=1e-6)
    assert np.abs(whole - b)[:, :, 3:].min(axis=-1).max() > 1e-3


def test_gauss_priors_are_one_at_the_centre_and_stand_in_pixels_of_the_input():
    prior = f2net.gauss_prior(jnp.asarray([[40.0, 16.0]]), (64, 96), (64, 96))[0, ..., 0]
    assert prior[16, 40] == 1
    np.testing.assert_allclose(prior[16, 55], np.exp(-0.5), rtol=1e-6)
    np.testing.assert_allclose(prior[31, 40], np.exp(-0.5), rtol=1e-6)
    small = f2net.gauss_prior(jnp.asarray([[40.0, 16.0]]), (64, 96), (8, 12))[0, ..., 0]
    np.testing.assert_allclose(small, to_size(prior, (8, 12)), atol=1e-6)


def test_attention_takes_the_current_frames_features_to_the_reference_frames_places():
    a = 30 * jnp.eye(3)[jnp.asarray([2, 0, 1, 1])]
    b = jnp.eye(3)
    np.testing.assert_allclose(f2net.diffuse(a, b), a / 30, atol=1e-4)


def weights_of_fusion(variables):
    """The fusion's own, with none of its few channels dead."""
    own = {name: variables[name]["weigh"] for name in ("params", "batch_stats")}
    own = jax.tree.map(jnp.copy, own)
    own["params"]["channel_bn"]["bias"] += 3.0
    return own


@pytest.mark.parametrize("kind", KINDS)
def test_every_fusion_weighs_its_sources_with_weights_that_sum_to_one(kind, tiny):
    _, variables = tiny
    weigh = DynamicFusion(kind, 4, 0.3, None)
    own = weights_of_fusion(variables)
    x, y, z = jax.random.normal(jax.random.key(2), (3, 2, 4, 5, 8))
    np.testing.assert_allclose(weigh.apply(own, (x, x, x), False), x, atol=1e-5)
    mixed = weigh.apply(own, (x, y, z), False)
    mean = (x + y + z) / 3
    assert np.abs(mixed - mean).max() > 1e-2
    shares = jnp.abs(mixed - x) + jnp.abs(mixed - y) + jnp.abs(mixed - z)
    spread = jnp.maximum(jnp.maximum(x, y), z) - jnp.minimum(jnp.minimum(x, y), z)
    assert (shares <= 2 * spread + 1e-5).all()  # between them everywhere


def test_a_fusion_by_place_has_one_weight_for_all_channels_and_both_is_their_mean(tiny):
    _, variables = tiny
    own = weights_of_fusion(variables)
    sources = jax.random.normal(jax.random.key(2), (3, 1, 4, 5, 8))
    channel, spatial, both = (
        DynamicFusion(kind, 4, 0.3, None).apply(own, tuple(sources), False) for kind in KINDS
    )
    np.testing.assert_allclose(both, (channel + spatial) / 2, atol=1e-6)
    for place in ((0, 0), (3, 4)):  # 8 channels, 3 unknown weights
        known, values = sources[:, 0, *place].T, spatial[0, *place]
        _, left, _, _ = np.linalg.lstsq(known, values)
        assert left < 1e-8
        _, left, _, _ = np.linalg.lstsq(known, channel[0, *place])
        assert left > 1e-6


def test_video_and_image_steps_add_up_their_terms():
    heat = heat_map(jnp.asarray(box(SIZE, (2, 20, 5, 30))), GRID)
    mask = jnp.asarray(box(SIZE, (2, 20, 5, 30)))
    masks = jnp.stack([jnp.zeros_like(mask), jnp.zeros_like(mask), mask], axis=1)
    unsure, sure = jnp.zeros(mask.shape), 200.0 * mask - 100.0
    logits = jax.random.normal(jax.random.key(0), (1, *GRID, 1))
    centre = focal(logits, heat)
    bce = np.log(2) * mask.size / float(mask.sum())
    outputs = {"current": unsure, "encoder": sure, "heat": logits}
    video, metrics = f2net.loss(outputs, {"masks": masks})
    np.testing.assert_allclose(video, bce + 0.8 * 0.5 + centre, rtol=1e-5)
    assert set(metrics) == {"video_loss", "centre_loss"}
    outputs = {"current": sure, "encoder": unsure, "heat": logits}
    image, metrics = f2net.loss(outputs, {"mask": mask})
    np.testing.assert_allclose(image, 0.1 * (bce + 0.8 * 0.5) + centre, rtol=1e-5)
    assert set(metrics) == {"image_loss", "centre_loss"}


def test_a_batch_without_any_object_has_a_finite_loss():
    outputs = {name: jnp.zeros((2, *SIZE, 1)) for name in ("current", "encoder")}
    outputs["heat"] = jnp.zeros((2, *GRID, 1))
    for batch in ({"masks": jnp.zeros((2, 3, *SIZE, 1))}, {"mask": jnp.zeros((2, *SIZE, 1))}):
        assert np.isfinite(f2net.loss(outputs, batch)[0])


@pytest.mark.parametrize("video", [True, False])
def test_the_two_phases_train_their_own_parts(video, tiny, clip):
    model, variables = tiny
    batch = clip if video else {"frames": clip["frames"][:, :1], "masks": clip["masks"][:, :1]}
    truth = {"masks": clip["masks"]} if video else {"mask": clip["masks"][:, 0]}

    def value(params):
        weights = {**variables, "params": params}
        outputs, _ = model.apply(weights, *given(batch), train=True, mutable=["batch_stats"])
        return f2net.loss(outputs, truth)[0]

    plain = jax.jit(jax.grad(value))(variables["params"])
    moved = {k: sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(v)) for k, v in plain.items()}
    assert all(moved[k] > 0 for k in ("encoder", "decoder", "heat"))
    assert [moved[k] > 0 for k in ("weigh", "head")] == [video] * 2
    alone = plain["encoder"]["main_classifier"]["kernel"]
    assert (jnp.abs(alone).max() > 0) == (not video)


def test_matching_computed_again_has_the_same_gradients(tiny):
    model, variables = tiny
    maps = jax.random.normal(jax.random.key(1), (2, 1, 5, 7, 8))

    def gradient(model):
        def value(maps):
            return (model.apply(variables, *maps, method="match") ** 2).sum()

        return jax.jit(jax.grad(value))(maps)

    plain, again = gradient(model), gradient(model.copy(remat=True))
    assert (jnp.abs(plain).max(axis=(1, 2, 3, 4)) > 1e-3).all()
    np.testing.assert_allclose(again, plain, rtol=1e-4, atol=1e-5)
    assert "remat" in str(
        jax.make_jaxpr(lambda m: model.copy(remat=True).apply(variables, *m, method="match"))(maps)
    )


def test_a_track_goes_on_by_its_mean_step_and_slower_while_hidden():
    way = ((0, 0), (4, 1), (8, 2), (12, 3), (16, 4), (20, 5), (24, 7))
    track = motion_clue.Track(way)
    np.testing.assert_allclose(motion_clue.expected_centre(track), (24 + 4, 7 + 6 / 5))
    slower = motion_clue.expected_centre(track._replace(hidden=2))
    np.testing.assert_allclose(slower, (24 + 4 * 0.81, 7 + 6 / 5 * 0.81))
    np.testing.assert_allclose(motion_clue.expected_centre(motion_clue.Track(((3, 5),), 4)), (3, 5))


def test_the_peak_is_chosen_by_the_motion_clue_and_without_one_by_its_score():
    found = np.asarray([[0.9, 10, 10], [0.8, 3, 4], [0.7, 9, 3]])
    assert motion_clue.choose(found, None) == (10, 10)
    assert motion_clue.choose(found, motion_clue.Track()) == (10, 10)
    for edge in ([0.9, 0, 10], [0.9, 10, 0]):
        assert motion_clue.choose(np.asarray([edge, *found[1:]]), None) == (3, 4)
    assert motion_clue.choose(found, motion_clue.Track(((4, 4),))) == (3, 4)
    assert motion_clue.choose(found, motion_clue.Track(((1, 4), (5, 4)))) == (9, 3)
    askew = np.asarray([[0.9, 12, 9], [0.8, 10, 10]])  # 3 + 3 and 1 + 4 away
    assert motion_clue.choose(askew, motion_clue.Track(((9, 6),))) == (10, 10)
    assert motion_clue.choose(found, motion_clue.Track(((1, 4), (5, 4)), hidden=30)) == (3, 4)


def pictures_of(video):
    return [f2net.prepare(jnp.asarray(fit(f, SIZE)))[None] for f in video.frames]


def test_protocol_equals_the_whole_network_frame_by_frame(tiny):
    model, variables = tiny
    video = Video(frames(5))
    ours = list(f2net.segmenter(model, variables, size=SIZE, batch=2)(video))
    call, small = jax.jit(model.apply), pictures_of(video)
    assert len(ours) == 5
    for scores, picture in zip(ours, small, strict=True):
        whole = jnp.stack([small[0], picture, picture], axis=1)
        logits = call(variables, whole, jnp.zeros((1, *GRID, 1)))["current"]
        expected = np.asarray(jax.nn.sigmoid(logits))[0, ..., 0]
        assert scores.shape == (40, 60) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, to_size(expected, (40, 60)), atol=1e-5)


def likely(variables, more):
    """The weights with so much more on the masks' logits, and no looks to outweigh the motion."""
    variables = jax.tree.map(jnp.copy, variables)
    variables["params"]["heat"]["classifier"]["kernel"] *= 0.0
    variables["params"]["head"]["classifier"]["bias"] += more
    return variables


@pytest.mark.parametrize("motion", [True, False])
def test_protocol_with_the_prior_carries_the_centre_and_its_own_masks_heat_map(motion, tiny):
    model, variables = tiny[0].copy(prior=True), likely(tiny[1], 2.2)
    video = Video(frames(5))
    options = {"size": SIZE, "batch": 2, "motion": motion}
    ours = list(f2net.segmenter(model, variables, **options)(video))
    small = pictures_of(video)
    encode, centre, match = (
        jax.jit(lambda v, *args, m=m: model.apply(v, *args, method=m))
        for m in ("encode", "centre", "match")
    )
    heat, centres = jnp.zeros((1, *GRID, 1)), []
    first = encode(variables, small[0])[0]
    for scores, picture in zip(ours, small, strict=True):
        features, cross = encode(variables, picture)
        found = np.asarray(peaks(jax.nn.sigmoid(centre(variables, cross, heat)), 5)[0])
        track = motion_clue.Track(tuple(centres)) if motion else None
        centres.append(motion_clue.choose(found, track))
        pixels = jnp.asarray([[(n - 1) * 4 for n in centres[-1]]])
        prior = f2net.gauss_prior(pixels, SIZE, features.shape[1:3])
        logits = logits_at(match(variables, first, features, prior), SIZE)
        expected = np.asarray(jax.nn.sigmoid(logits))
        np.testing.assert_allclose(scores, to_size(expected[0, ..., 0], (40, 60)), atol=1e-5)
        assert 0 < (expected > 0.5).mean() < 1
        heat = heat_map(jnp.asarray(expected > 0.5), GRID)
    assert len(set(centres)) > 1


def test_any_length_compiles_once(tiny):
    for model in (tiny[0], tiny[0].copy(prior=True)):
        segment = f2net.segmenter(model, tiny[1], size=SIZE, batch=2)
        compiled = (f2net._encode, f2net._match, f2net._peaks, f2net._match_around)
        list(segment(Video(frames(2))))
        before = [function._cache_size() for function in compiled]
        assert len(list(segment(Video(frames(5))))) == 5
        assert [function._cache_size() for function in compiled] == before


@pytest.mark.parametrize("prior", [False, True])
def test_a_video_of_one_speck_works_and_one_of_nothing_is_nothing(prior, tiny):
    segment = f2net.segmenter(tiny[0].copy(prior=prior), tiny[1], size=SIZE, batch=2)
    (scores,) = segment(Video(frames(1, (1, 1))))
    assert scores.shape == (1, 1) and 0 <= scores[0, 0] <= 1
    assert list(segment(Video([]))) == []


def test_a_frame_with_an_empty_mask_adds_no_centre(tiny, monkeypatch):
    model, variables = tiny[0].copy(prior=True), likely(tiny[1], -1e3)
    seen, original = [], f2net.choose
    monkeypatch.setattr(f2net, "choose", lambda f, t: (seen.append(t), original(f, t))[1])
    list(f2net.segmenter(model, variables, size=SIZE)(Video(frames(3))))
    assert seen == [motion_clue.Track((), hidden) for hidden in range(3)]


def test_bad_input_is_refused_with_what_would_do(tiny, clip):
    model, variables = tiny
    pictures, heat = given(clip)
    with pytest.raises(ValueError, match=r"3 frames \(first, previous, current\) or 1"):
        model.apply(variables, pictures[:, :2], heat)
    with pytest.raises(ValueError, match=r"previous heat maps are \(2, 9, 13, 1\)"):
        model.apply(variables, pictures, heat[:, 1:])
    with pytest.raises(ValueError, match=r"fusion is 'all'\. There are: channel, spatial, both"):
        model.copy(fusion="all").apply(variables, pictures, heat)


def test_bfloat16_keeps_float32_parameters_and_nearly_the_scores(tiny, clip):
    model, variables = tiny
    half = model.copy(dtype="bfloat16", prior=True)
    made = jax.eval_shape(lambda: initialise(f2net.SYSTEM, half, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    half = half.copy(prior=False)
    a, b = (jax.jit(m.apply)(variables, *given(clip)) for m in (model, half))
    assert {leaf.dtype for leaf in jax.tree.leaves(b)} == {jnp.dtype("float32")}
    for name in a:  # logits of random weights, in the tens
        assert 0 < np.abs(a[name] - b[name]).max() < 0.05 * np.abs(a[name]).max(), name


def test_recipes_clips_and_options_are_those_the_network_takes(tiny):
    for mode in ("", ":smoke"):
        config = read_recipe(f"f2net{mode}")
        model = f2net.F2Net(**model_options(config))
        order = (config.data.sample, config.data.order, config.data.frames, config.data.copies)
        assert order == ("clip", "anchored", 3, 1)
        f2net.segmenter(model, {}, **config.segmenter)
    assert model.features == 8 and jax.tree.structure(
        jax.eval_shape(lambda: initialise(f2net.SYSTEM, model, 0))
    ) == jax.tree.structure(tiny[1])


def test_where_the_previous_frame_had_its_centre_is_weighed_against_a_bias():
    """Worked numbers: gates of 1/4 and 3/4, no looks of its own but the classifier's bias."""
    heat = Heat(features=1, std=0.0, dtype=None)
    cross, previous = jnp.zeros((1, 1, 2, 3)), jnp.array([0.0, 8.0]).reshape(1, 1, 2, 1)
    variables = heat.init(jax.random.key(0), cross, previous)
    for name, gate in (("motion_w", 1 / 4), ("motion_b", 3 / 4)):
        variables["params"][name]["bias"] = jnp.log(jnp.array([gate / (1 - gate)]))
    found = heat.apply(variables, cross, previous).ravel()
    np.testing.assert_allclose(found, [-2.19 + 0.75, -2.19 + 0.75 + 8 / 4], atol=1e-6)
