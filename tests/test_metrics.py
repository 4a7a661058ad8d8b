"""The DAVIS measures: equal to the original evaluators' numbers, and to their definitions."""

import json

import numpy as np
import pytest

from jaxvos.davis_layout import read_labels
from jaxvos.metrics.davis import (
    boundary,
    boundary_measure,
    boundary_radius,
    region_similarity,
    statistics,
)

EXACT = 1e-9


def disk(size=(40, 60), centre=(20, 30), radius=10):
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def defined_f(prediction, truth, radius):
    """F by its definition: distances between all pairs of boundary pixels."""
    ours, theirs = (np.argwhere(boundary(mask)) for mask in (prediction, truth))
    near = ((ours[:, None] - theirs[None]) ** 2).sum(-1) <= radius**2
    precision = near.any(1).mean() if len(ours) else 1.0
    recall = near.any(0).mean() if len(theirs) else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def noise(rng, size, cell, share):
    """A random mask of about a share of foreground, in blobs of some pixels."""
    cells = rng.random([-(-n // cell) for n in size]) < share
    return cells.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1]]


@pytest.mark.parametrize("method", ["osvos", "rvos"])
def test_every_real_frame_scores_as_in_the_original_evaluator(shared_data, method):
    reference = json.loads((shared_data / f"metrics/davis16_{method}.json").read_text())[
        "sequences"
    ]
    compared = 0
    for name, expected in reference.items():
        frames = sorted((shared_data / "metrics/predictions" / method / name).glob("*.png"))
        assert len(frames) == expected["n_frames"]
        for t, frame in enumerate(frames):
            truth = shared_data / "data/davis16_dev/Annotations/480p" / name / frame.name
            masks = read_labels(frame), read_labels(truth)
            assert abs(region_similarity(*masks) - expected["J_all_frames"][t]) < EXACT, frame
            assert abs(boundary_measure(*masks) - expected["F_all_frames"][t]) < EXACT, frame
            compared += 1
    assert compared == 594


def test_adversarial_masks_score_as_in_the_original_evaluator(shared_data):
    cases = json.loads((shared_data / "metrics/adversarial.json").read_text())["cases"]
    packed = np.load(shared_data / "metrics/adversarial.npz")

    def mask(name, kind, shape):
        bits = np.unpackbits(packed[f"{name}__{kind}"], count=shape[0] * shape[1])
        return bits.reshape(shape).astype(bool)

    for name, case in cases.items():
        prediction, truth = (mask(name, kind, case["shape"]) for kind in ("pred", "gt"))
        void = mask(name, "void", case["shape"]) if case["void"] else None
        counted = True if void is None else ~void
        bound = case["bound_th"]
        j = region_similarity(prediction, truth, void)
        f = boundary_measure(prediction, truth, void, bound)
        assert abs(j - case["J"]) < EXACT, name
        assert abs(f - case["F"]) < EXACT, name
        assert boundary_radius(case["shape"], bound) == case["bound_pix"], name
        assert boundary(prediction & counted).sum() == case["n_boundary_pred"], name
        assert boundary(truth & counted).sum() == case["n_boundary_gt"], name
    assert len(cases) == 80


def test_statistics_are_those_of_the_original_evaluator(shared_data):
    vectors = json.loads((shared_data / "metrics/adversarial.json").read_text())["statistics"]
    short = {name: each for name, each in vectors.items() if len(each["values"]) <= 256}
    for name, expected in vectors.items():
        values = [np.nan if value is None else value for value in expected["values"]]
        measured = statistics(values)
        assert abs(measured.mean - expected["mean"]) < EXACT, name
        assert abs(measured.recall - expected["recall"]) < EXACT, name
        if name in short:  # above, the original counts frames in 8 bits
            assert abs(measured.decay - expected["decay"]) < EXACT, name
    assert len(short) == 23 and len(vectors) == 28


def test_statistics_of_published_frames_are_the_published_ones(shared_data):
    published = json.loads((shared_data / "metrics/published_rgmp_davis16.json").read_text())
    for name, sequence in published["sequences"].items():
        for measure in "JF":
            expected = sequence[measure]
            measured = statistics(expected["raw"][1:-1])
            assert abs(measured.mean - expected["mean"]) < EXACT, name
            assert abs(measured.decay - expected["decay"]) < EXACT, name


@pytest.mark.parametrize(("size", "cell"), [((24, 37), 1), ((33, 21), 4), ((1, 9), 2), ((9, 1), 1)])
def test_f_is_its_definition_on_random_masks(size, cell):
    rng = np.random.default_rng(3)
    for radius in (1, 2, 5, 50):
        for share in (0.02, 0.3, 0.5, 0.98):
            masks = noise(rng, size, cell, share), noise(rng, size, cell, share)
            measured = boundary_measure(*masks, bound=radius)
            assert abs(measured - defined_f(*masks, radius)) < EXACT, (radius, share)


def test_the_radius_counts_the_pixel_at_exactly_that_distance():
    row = np.zeros((30, 40), bool)
    row[5, 5] = True
    for distance, near in ((4, 1.0), (5, 1.0), (6, 0.5), (7, 0.0)):
        moved = np.roll(row, distance, axis=1)  # boundary pixels are at -1 and 0: two columns
        assert boundary_measure(row, moved, bound=5) == near


def test_swapping_prediction_and_truth_changes_nothing_and_shifting_both_neither():
    a, b = disk(), disk(centre=(22, 35), radius=8)
    assert boundary_measure(a, b, bound=2) == boundary_measure(b, a, bound=2) > 0
    assert region_similarity(a, b) == region_similarity(b, a) > 0
    shifted = (np.roll(mask, (3, -4), axis=(0, 1)) for mask in (a, b))
    assert boundary_measure(*shifted, bound=2) == boundary_measure(a, b, bound=2)


def test_any_label_but_zero_is_foreground():
    mask = disk()
    labels = np.where(mask, 255, 0).astype(np.uint8)
    labels[:20] = np.where(mask[:20], 3, 0)
    assert region_similarity(labels, mask) == boundary_measure(labels, mask) == 1.0


def test_void_pixels_count_for_neither_mask():
    truth, void = disk(), np.zeros((40, 60), np.uint8)
    void[:, 30:] = 255
    prediction = truth.copy()
    prediction[:, 30:] = False
    assert region_similarity(prediction, truth) < 0.6
    assert region_similarity(prediction, truth, void) == 1.0
    assert boundary_measure(prediction, truth, void) == 1.0


def test_decay_of_long_videos_compares_their_first_and_last_quarter():
    values = np.repeat([0.9, 0.6, 0.6, 0.4], 500)
    measured = statistics(values)
    assert measured.mean == pytest.approx(0.625)
    assert measured.recall == 0.75
    assert measured.decay == pytest.approx(0.5, abs=1e-3)  # each quarter has one frame of the next


def test_frames_without_a_value_are_left_out_of_mean_and_decay_and_are_not_recalled():
    assert statistics([np.nan, 1.0, 0.8, 0.6]) == pytest.approx((0.8, 0.75, 0.3))
    assert np.isnan(statistics([np.nan, np.nan]).mean)


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (np.zeros((40, 61), bool), r"\(40, 61\)"),
        (np.zeros((40, 60, 1), bool), r"\(40, 60, 1\)"),
        (np.full((40, 60), 0.3, np.float32), "threshold"),
    ],
)
def test_what_is_no_mask_of_that_size_is_refused(prediction, words):
    for measure in (region_similarity, boundary_measure):
        with pytest.raises(ValueError, match=words):
            measure(prediction, disk())


def test_senseless_tolerances_and_empty_lists_are_refused():
    for bound in (-0.1, 2.5):
        with pytest.raises(ValueError, match="tolerance"):
            boundary_measure(disk(), disk(), bound=bound)
    with pytest.raises(ValueError, match="one value per frame"):
        statistics([])
