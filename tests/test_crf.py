"""The dense CRF: the reference tool's numbers, the sums over all pairs, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvos import crf, permutohedral
from jaxvos.typing import Video

# The settings of the reference numbers; A and B are published ones without their stretch.
REFERENCE = {
    "A": crf.PRESETS["pdb"]._replace(stretch=False),
    "B": crf.PRESETS["cosnet-10-10"]._replace(stretch=False),
    "M": crf.PRESETS["matnet"]._replace(stop=None),
}
QUICK = crf.Settings(2, 3, 6, 20, 4, iterations=3)


@pytest.fixture(scope="module")
def case(shared_data):
    return np.load(shared_data / "crf/case.npz")


def made_up(seed, size=(20, 29), objects=None):
    """A noisy disk on a noisy ground, and scores that know its place but not its edge."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: size[0], : size[1]]
    disk = (y - 5 - seed % 2) ** 2 + (x - 8) ** 2 <= 18
    colours = np.where(disk[..., None], (200, 60, 40), (40, 120, 160))
    frame = np.clip(colours + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)
    scores = np.clip(0.2 + 0.6 * np.roll(disk, 1, 1) + rng.normal(0, 0.1, size), 0, 1)
    if objects:
        scores = np.stack([scores / objects * rng.random(size) for _ in range(objects)], -1)
    return frame, scores, disk


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def all_pairs(frame, scores, settings):
    """Mean field by its definition, in float64: kernels of all pairs, every label filtered."""
    positions = np.indices(frame.shape[:2]).reshape(2, -1)
    colours = frame.reshape(-1, 3).T.astype(float)
    both = (
        (settings.gaussian_compat, positions / settings.gaussian_sxy),
        (
            settings.bilateral_compat,
            np.concatenate([positions / settings.bilateral_sxy, colours / settings.bilateral_srgb]),
        ),
    )
    kernel = 0
    for weight, f in both:
        k = np.exp(-0.5 * ((f[:, :, None] - f[:, None]) ** 2).sum(0))
        n = 1 / np.sqrt(k.sum(1))
        kernel = kernel + weight * n[:, None] * k * n
    p = np.atleast_3d(scores).reshape(len(kernel), -1).T
    energy = -np.log(np.clip(np.concatenate([1 - p.sum(0, keepdims=True), p]), 1e-5, 1))
    q = np.exp(-energy) / np.exp(-energy).sum(0)
    for _ in range(settings.iterations):
        e = np.exp(q @ kernel - energy)
        q = e / e.sum(0)
    return q[1:].T.reshape(scores.shape)


def plain_lattice(features, values):
    """The lattice filter of one channel point by point, with tuples for keys; and its size."""
    d, pixels = features.shape
    i = np.arange(d)
    scaled = features * ((d + 1) * np.sqrt(2 / 3) / np.sqrt((i + 1) * (i + 2)))[:, None]
    corners, points = [], {}
    for p in range(pixels):
        c = scaled[:, p]
        y = np.array([c.sum()] + [c[j:].sum() - j * c[j - 1] for j in range(1, d + 1)])
        low = np.round(y / (d + 1)).astype(int)
        rank = np.argsort(np.argsort(low * (d + 1) - y)) + low.sum()
        low = (low + (rank < 0) - (rank > d)) * (d + 1)
        rank %= d + 1
        rest = np.sort((y - low) / (d + 1))[::-1]
        share = np.append(1 - rest[0] + rest[d], rest[:-1][::-1] - rest[1:][::-1])
        for k in range(d + 1):
            key = tuple(low + k - (d + 1) * (rank > d - k))
            corners.append((p, key, share[k]))
            points[key] = points.get(key, 0) + share[k] * values[p]
    for axis in range(d + 1):
        step = 1 - (d + 1) * (np.arange(d + 1) == axis)
        points = {
            key: value + sum(points.get(tuple(np.add(key, sign * step)), 0) for sign in (1, -1)) / 2
            for key, value in points.items()
        }
    result = np.zeros(pixels)
    for p, key, share in corners:
        result[p] += share * points[key] / (1 + 2.0**-d)
    return result, len(points)


@pytest.mark.parametrize("name", "ABM")
def test_small_pictures_come_out_as_in_the_reference_tool(case, name):
    scores = case["small_p_u8"] / 255
    for iterations in (1, 5, 10):
        settings = REFERENCE[name]._replace(iterations=iterations)
        ours = crf.refine(case["small_rgb"], scores, settings)
        expected = case[f"small_{name}_it{iterations}_fg"]
        off = np.abs(ours - expected)
        assert off.mean() < 1e-6 and (off < 1e-3).mean() >= 0.999, iterations
        assert iou(ours > 0.5, expected > 0.5) >= 0.999, iterations


def test_a_480p_frame_comes_out_as_in_the_reference_tool(case):
    ours = crf.refine(case["large_rgb"], case["large_p_u8"] / 255, REFERENCE["A"])
    expected = case["large_A_it5_fg_u16"] / 65535
    assert (np.abs(ours - expected) < 1e-3).mean() >= 0.999
    assert iou(ours > 0.5, expected > 0.5) >= 0.999
    assert iou(ours > 0.5, case["large_gt"] > 0) == pytest.approx(0.885, abs=1e-3)


@pytest.mark.parametrize("name", "ABM")
def test_energies_are_those_of_the_reference_tool(case, name):
    ours = crf.unary(case["small_p_u8"] / 255, REFERENCE[name])
    np.testing.assert_allclose(ours, case[f"small_{name}_unary"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "sizes"), [("A", (3408, 22520)), ("B", (29816, 43474))])
def test_lattice_and_responses_are_those_of_the_reference_tool(case, name, sizes):
    settings, shape = REFERENCE[name], (120, 214)
    features = (
        crf._positions(*shape, settings.gaussian_sxy),
        crf._colours(case["small_rgb"], settings),
    )
    x = case[f"small_{name}_input_diff"].reshape(1, -1)
    for kind, size, each in zip(("gauss", "bilat"), sizes, features, strict=True):
        kernel = permutohedral.lattice(each)
        assert kernel.neighbours.shape[2] == size + 1
        norm = permutohedral.normaliser(kernel)
        ones = np.asarray(norm, float).reshape(shape) ** -2
        np.testing.assert_allclose(ones, case[f"small_{name}_{kind}_K1"], rtol=2e-3)
        raw = np.asarray(jax.jit(permutohedral.filtered)(kernel, x)).reshape(shape)
        np.testing.assert_allclose(raw, case[f"small_{name}_{kind}_none_response"], atol=2e-2)
        even = np.asarray(crf.pairwise([crf.Term(kernel, norm, 1.0)], x[None])).reshape(shape)
        np.testing.assert_allclose(even, case[f"small_{name}_{kind}_sym_response"], atol=3e-5)


@pytest.mark.parametrize("name", "ABM")
def test_divergence_is_that_of_the_reference_tool_after_every_step(case, name):
    settings = REFERENCE[name]
    u = crf.unary(case["small_p_u8"] / 255, settings).reshape(2, 1, -1)
    terms = crf._terms([case["small_rgb"]], settings)

    @jax.jit
    def divergence(q):
        even = crf.pairwise(terms, jnp.ones_like(q[:1]))
        return crf.divergence(q, u, crf.pairwise(terms, q[1:] - q[:1]), even)

    states = [crf.mean_field(u, terms, t, None) for t in range(11)]
    sums = [np.asarray(divergence(q), float).sum() for q in states]
    np.testing.assert_allclose(sums, case[f"small_{name}_kl"], rtol=3e-6)


def test_mean_field_of_ags_stops_when_the_divergence_hardly_changes(case):
    # In the reference the change falls below 500 at the third step, for a picture of this size.
    frame, scores = case["small_rgb"], case["small_p_u8"] / 255
    stopped = crf.refine(frame, scores, "ags")
    for steps, same in ((2, False), (3, True), (4, False)):
        settings = crf.PRESETS["ags"]._replace(stop=None, iterations=steps)
        assert np.allclose(stopped, crf.refine(frame, scores, settings), atol=1e-6) == same


@pytest.mark.slow
def test_the_exact_sums_are_the_reference_ones(case, shared_data):
    expected = np.load(shared_data / "crf/case_exact.npz")
    frame, scores = case["small_rgb"], case["small_p_u8"] / 255
    for kind, term in zip(("gauss", "bilat"), crf._exact_terms(frame, REFERENCE["A"]), strict=True):
        ones = np.asarray(term.norm, float).reshape(scores.shape) ** -2
        # In float64 ours holds to 1e-7, so what is left is the reference's rounding.
        np.testing.assert_allclose(ones, expected[f"small_A_{kind}_exact_K1"], rtol=3e-4)
    del term  # gigabytes
    ours = crf.refine(frame, scores, REFERENCE["A"], exact=True)
    assert np.abs(ours - expected["small_A_exact_it5_fg"]).mean() < 1e-5
    gap = np.abs(crf.refine(frame, scores, REFERENCE["A"]) - expected["small_A_exact_it5_fg"])
    assert 1e-4 < gap.mean() < 5e-3


@pytest.mark.parametrize("objects", [None, 3])
def test_exact_is_mean_field_by_its_definition(objects):
    frame, scores, _ = made_up(0, objects=objects)
    ours = crf.refine(frame, scores, QUICK, exact=True)
    assert ours.dtype == np.float32 and ours.shape == scores.shape
    np.testing.assert_allclose(ours, all_pairs(frame, scores, QUICK), atol=1e-5)


@pytest.mark.parametrize("objects", [None, 2])
def test_the_lattice_comes_near_the_exact_sums(objects):
    frame, scores, _ = made_up(1, objects=objects)
    gap = np.abs(crf.refine(frame, scores, QUICK) - all_pairs(frame, scores, QUICK))
    assert gap.mean() < 0.02 < np.abs(scores - all_pairs(frame, scores, QUICK)).mean()


@pytest.mark.parametrize("d", [2, 5])
def test_the_lattice_is_the_one_written_down_point_by_point(d):
    rng = np.random.default_rng(d)
    for scale in (0.1, 0.2, 0.4, 0.8, 2):  # the narrow ones fill their few cells to the brim
        features, x = rng.normal(0, scale, (d, 60)).astype(np.float32), rng.normal(size=60)
        expected, size = plain_lattice(features.astype(float), x)
        kernel = permutohedral.lattice(features)
        assert kernel.neighbours.shape[2] == size + 1, scale
        # Joined alone, for room that makes all five the same program.
        ours = permutohedral.filtered(
            permutohedral.joined([kernel]), jnp.asarray(x[None], jnp.float32)
        )[0]
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_mask_moves_to_the_edge_of_its_object():
    frame, scores, disk = made_up(2)
    assert iou(scores > 0.5, disk) < 0.8
    assert iou(crf.refine(frame, scores, QUICK) > 0.5, disk) > 0.9


@pytest.mark.parametrize("stop", [None, 80.0])
def test_frames_refined_together_come_out_as_each_alone(stop):
    settings = QUICK._replace(stop=stop, iterations=8)
    frames, scores, _ = zip(*(made_up(seed) for seed in range(3)), strict=True)
    scores = [scores[0], np.full_like(scores[1], 0.01), scores[2]]  # the second one stops early
    alone = [crf.refine(f, s, settings) for f, s in zip(frames, scores, strict=True)]
    np.testing.assert_allclose(crf.refine_many(frames, scores, settings), alone, atol=1e-5)


def test_one_object_is_a_mask_and_the_order_of_objects_means_nothing():
    frame, scores, _ = made_up(3, objects=2)
    ours = crf.refine(frame, scores, QUICK)
    assert ours.min() >= 0 and ours.sum(-1).max() <= 1 + 1e-6
    np.testing.assert_allclose(crf.refine(frame, scores[..., ::-1], QUICK)[..., ::-1], ours, 1e-4)
    one = crf.refine(frame, scores[..., :1], QUICK)
    np.testing.assert_array_equal(one[..., 0], crf.refine(frame, scores[..., 0], QUICK))


def test_objects_that_claim_a_pixel_together_share_it():
    energies = crf.unary(np.full((1, 1, 3), 0.6), QUICK)
    np.testing.assert_allclose(np.exp(-energies[:, 0, 0]), [1e-5, 1 / 3, 1 / 3, 1 / 3], rtol=1e-5)


def test_stretched_maps_reach_from_0_to_1_and_constant_ones_stay():
    stretch = QUICK._replace(stretch=True)
    _, scores, _ = made_up(4)
    faint = 0.4 + 0.1 * scores
    grey = (faint - faint.min()) / np.ptp(faint)
    np.testing.assert_allclose(crf.unary(faint, stretch), crf.unary(grey, QUICK), atol=1e-5)
    for value in (0.0, 0.3, 1.0):
        flat = np.full((3, 4), value)
        np.testing.assert_array_equal(crf.unary(flat, stretch), crf.unary(flat, QUICK))


def test_the_energies_of_ags_are_logged_twice():
    settings = crf.PRESETS["ags"]
    background, foreground = crf.unary(np.array([[0.7]]), settings)[:, 0, 0]
    assert background == pytest.approx(-np.log(-np.log(0.7) / (1.05 / (1 + np.exp(-0.7)))))
    assert foreground == 0.0  # its "probability" is 2.0, clipped to 1


def test_a_refined_segmenter_takes_each_score_map_with_its_frame():
    frames, scores, _ = zip(*(made_up(seed) for seed in range(3)), strict=True)
    segment = crf.refined(lambda video: iter(scores), QUICK)
    results = list(segment(Video(frames)))
    assert len(results) == 3
    for frame, score, result in zip(frames, scores, results, strict=True):
        np.testing.assert_array_equal(result, crf.refine(frame, score, QUICK))


def test_frames_with_about_as_many_lattice_points_share_a_program():
    def empty(points):
        shapes = ((6, 9), (6, 9), (6, 2, 1 + points))
        return permutohedral.Lattice(*(np.zeros(shape, np.int32) for shape in shapes))

    points = [permutohedral.joined([empty(m)]) for m in (100_000, 104_000, 120_000)]
    a, b, c = (each.neighbours.shape[2] for each in points)
    assert a == b != c and 100_001 <= a <= 1.25 * 100_001 and c >= 120_001


@pytest.mark.parametrize("size", [(1, 1), (9, 1)])
def test_pictures_one_pixel_wide_are_refined(size):
    frame = np.zeros((*size, 3), np.uint8)
    scores = np.linspace(0.1, 0.7, size[0] * size[1]).reshape(size)
    ours = crf.refine(frame, scores, QUICK)
    assert ours.shape == size and np.isfinite(ours).all()
    assert np.abs(ours - all_pairs(frame, scores, QUICK)).mean() < 0.01


def test_every_published_setting_has_a_name():
    grid = {(s.bilateral_sxy, s.bilateral_compat) for n, s in crf.PRESETS.items() if "cosnet-" in n}
    assert grid == {(sxy, compat) for sxy in (10, 15, 20) for compat in (8, 9, 10)}
    assert {"pdb", "cosnet", "ags", "matnet"} < set(crf.PRESETS)
    twice = {name for name, s in crf.PRESETS.items() if s.unary == "energies" and s.stop == 500}
    assert twice == {"ags", "matnet"}


FRAME, SCORES = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 0.5)


@pytest.mark.parametrize(
    ("frame", "scores", "settings", "words"),
    [
        (FRAME, SCORES, "cosnett", "cosnett.*pdb, cosnet, cosnet-10-8"),
        (FRAME, np.where(SCORES, np.nan, 0), QUICK, "24 scores are not finite"),
        (FRAME, 255 * SCORES, QUICK, "divide grey values by 255"),
        (FRAME, SCORES - 0.6, QUICK, "in 0..1"),
        (FRAME, SCORES[:, 1:], QUICK, r"\(4, 5\).*resize"),
        (FRAME, SCORES[0], QUICK, r"\(6,\)"),
        (FRAME / 255, SCORES, QUICK, "uint8 RGB, not .* float64"),
        (FRAME[..., :1], SCORES, QUICK, r"\(4, 6, 1\)"),
        (FRAME, SCORES, QUICK._replace(bilateral_srgb=0), "above 0"),
        (FRAME, SCORES, QUICK._replace(iterations=-1), "not -1"),
        (FRAME, SCORES, QUICK._replace(unary="logits"), "logits"),
        (FRAME, SCORES, QUICK._replace(bilateral_sxy=1e-4), "too fine"),
        (FRAME, np.stack([SCORES / 2] * 2, -1), "ags", "one object, not for 2"),
    ],
)
def test_what_cannot_be_refined_is_refused(frame, scores, settings, words):
    with pytest.raises(ValueError, match=words):
        crf.refine(frame, scores, settings)


def test_a_lattice_whose_points_cannot_be_numbered_is_refused():
    features = np.random.default_rng(0).uniform(0, 3000, (5, 100)).astype(np.float32)
    with pytest.raises(ValueError, match="too fine"):
        permutohedral.lattice(features)


def test_exact_refuses_large_pictures_and_says_what_memory_they_take():
    large = np.zeros((480, 854, 3), np.uint8)
    with pytest.raises(ValueError, match="1252 GiB"):
        crf.refine(large, large[..., 0], "pdb", exact=True)


def test_frames_refined_together_are_of_one_size_and_each_has_its_scores():
    with pytest.raises(ValueError, match="of one size"):
        crf.refine_many([FRAME, FRAME[1:]], [SCORES, SCORES[1:]], QUICK)
    for frames in ([], [FRAME] * 2):
        with pytest.raises(ValueError, match="one for each"):
            crf.refine_many(frames, [SCORES] * len(frames[:1]), QUICK)


def test_a_refined_segmenter_with_an_unknown_setting_is_refused_before_any_work():
    with pytest.raises(ValueError, match="There are"):
        crf.refined(lambda video: iter(()), "nothing")
