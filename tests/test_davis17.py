"""The measures of several objects: equal to the original evaluator's, and to one pair at a time."""

import json

import numpy as np
import pytest

from jaxvos.davis_layout import read_labels
from jaxvos.metrics.davis import boundary_measure, region_similarity, statistics
from jaxvos.metrics.davis17 import (
    PROPOSALS,
    assign,
    count_objects,
    measure_frame,
    measure_objects,
)

EXACT = 1e-9


def blobs(rng, size, labels, cell=9, share=0.5):
    """A random label map in blobs of some pixels, about a share of which is foreground."""
    cells = rng.integers(1, labels + 1, [-(-n // cell) for n in size])
    cells[rng.random(cells.shape) > share] = 0
    return cells.repeat(cell, 0).repeat(cell, 1)[: size[0], : size[1]].astype(np.uint8)


def boxes(*places, size=(60, 80)):
    """A label map of 10 x 10 pixel squares: the k-th place (y, x), unless None, has label k."""
    labels = np.zeros(size, np.uint8)
    for k, place in enumerate(places, 1):
        if place:
            labels[place[0] : place[0] + 10, place[1] : place[1] + 10] = k
    return labels


A, B, C = (5, 5), (25, 30), (45, 60)


def measure_sequence(predictions, truths):
    """J and F [T, P, K] of a sequence."""
    proposals = int(max(labels.max() for labels in predictions))
    objects = count_objects(truths[0])
    pairs = zip(predictions, truths, strict=True)
    measured = [measure_frame(*pair, proposals, objects) for pair in pairs]
    return tuple(np.stack(each) for each in zip(*measured, strict=True))


def check_unsupervised(J, F, expected, name):
    """J and F of the assigned proposals, [K, T], after comparing all with the original's."""
    scores = (J.mean(axis=0) + F.mean(axis=0)) / 2
    assert np.abs(scores - expected["score_matrix_proposal_by_object"]).max() < EXACT, name
    chosen = assign(J, F)
    by_object = np.argsort(expected["col_ind"])
    assert (chosen == np.array(expected["row_ind"])[by_object]).all(), name
    kept = [each[:, chosen, np.arange(len(chosen))].T for each in (J, F)]
    for measure, values in zip("JF", kept, strict=True):
        assert np.abs(values - np.array(expected[measure])[by_object]).max() < EXACT, name
    return kept


@pytest.mark.parametrize(("folder", "sequences"), [("davis17_unsup", 6), ("davis17_unsup_sav", 1)])
def test_real_proposals_score_as_in_the_original_evaluator(shared_data, folder, sequences):
    root = shared_data / "metrics" / folder
    reference = json.loads((root / "result.json").read_text())
    objects = {"J": [], "F": []}
    for name, expected in reference["sequences"].items():
        files = sorted((root / "gt" / name).glob("*.png"))
        truths = [read_labels(file) for file in files]
        predictions = [read_labels(root / "proposals" / name / file.name) for file in files]
        J, F = measure_sequence(predictions, truths)
        assert J.shape[1:] == (expected["n_proposals"], expected["n_gt"])
        for measure, values in zip("JF", check_unsupervised(J, F, expected, name), strict=True):
            objects[measure] += [statistics(row) for row in values]
    for measure, per_object in objects.items():
        mean, recall, decay = np.mean(per_object, axis=0)
        assert abs(mean - reference["global_result"][f"{measure}-Mean"]) < EXACT
        assert abs(recall - reference["global_result"][f"{measure}-Recall"]) < EXACT
        assert abs(decay - reference["global_result"][f"{measure}-Decay"]) < EXACT
    assert len(reference["sequences"]) == sequences


def test_adversarial_label_maps_score_as_in_the_original_evaluator(shared_data):
    cases = json.loads((shared_data / "metrics/adversarial.json").read_text())["multi_object"]
    packed = np.load(shared_data / "metrics/adversarial.npz")
    semi = 0
    for name, case in cases.items():
        predictions, truths = (packed[f"multi_{name}__{kind}"].copy() for kind in ("pred", "gt"))
        if f"multi_{name}__void" in packed:
            truths[packed[f"multi_{name}__void"] != 0] = 255
        assert count_objects(truths[0]) == case["n_gt"], name
        J, F = measure_sequence(predictions, truths)
        check_unsupervised(J, F, case["unsup"], name)
        if "semi" in case:
            pairs = zip(predictions[1:-1], truths[1:-1], strict=True)
            measured = np.stack([measure_objects(*pair, case["n_gt"]) for pair in pairs], axis=-1)
            for measure, values in zip("JF", measured, strict=True):
                assert np.abs(values - np.array(case["semi"][measure])).max() < EXACT, name
            semi += 1
    assert len(cases) == 11 and semi == 6


@pytest.mark.parametrize("size", [(150, 210), (210, 150), (40, 400)])
@pytest.mark.parametrize("cell", [1, 9, 37])
def test_every_proposal_and_object_is_measured_as_if_it_were_alone(size, cell):
    rng = np.random.default_rng(4)
    labels, truth = blobs(rng, size, 5, cell), blobs(rng, size, 3, cell)
    labels[labels == 2] = 0  # a proposal that is absent
    void = blobs(rng, size, 1, 23, 0.2) != 0
    truth[void] = 255
    J, F = measure_frame(labels, truth, 6, 3)
    assert J.shape == F.shape == (6, 3)
    for p in range(6):
        for k in range(3):
            pair = labels == p + 1, truth == k + 1, void
            assert abs(J[p, k] - region_similarity(*pair)) < EXACT
            assert abs(F[p, k] - boundary_measure(*pair)) < EXACT


@pytest.mark.parametrize("size", [(150, 210), (40, 400)])
def test_without_proposals_object_k_is_measured_against_object_k_and_void_is_background(size):
    rng = np.random.default_rng(6)
    labels, truth = blobs(rng, size, 4), blobs(rng, size, 4)
    truth[:, :50][truth[:, :50] == 1] = 255
    J, F = measure_objects(labels, truth, 4)
    for k in range(4):
        pair = labels == k + 1, truth == k + 1
        assert abs(J[k] - region_similarity(*pair)) < EXACT
        assert abs(F[k] - boundary_measure(*pair)) < EXACT


def test_what_lies_within_the_radius_is_near_at_every_border_of_the_picture():
    size = (300, 400)  # radius 4
    for place in ((0, 0), (0, 390), (290, 0), (290, 390), (3, 200), (150, 2), (150, 200)):
        for move in ((4, 0), (-4, 0), (0, 4), (0, -4), (3, -3), (-2, 2)):
            moved = tuple(
                min(max(a + b, 0), n - 10) for a, b, n in zip(place, move, size, strict=True)
            )
            labels, truth = boxes(place, size=size), boxes(moved, size=size)
            expected = boundary_measure(labels, truth)
            assert measure_frame(labels, truth, 1, 1)[1] == measure_objects(labels, truth, 1)[1]
            assert measure_frame(labels, truth, 1, 1)[1] == expected > 0


def test_missing_objects_have_empty_masks_which_are_right_where_the_object_is_absent():
    truth = boxes(A, B, None)
    J, F = measure_objects(boxes(A), truth, 3)
    assert J.tolist() == F.tolist() == [1, 0, 1]
    J, F = measure_frame(boxes(A), truth, 1, 3)
    assert J.tolist() == F.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_whatever_the_proposals_are_called_each_object_gets_its_own():
    truths = [boxes(A, B, C), boxes(A, C, B)]
    table = np.array([0, 4, 1, 3], np.uint8)  # objects 1, 2 and 3 are called 4, 1 and 3
    J, F = measure_sequence([table[truth] for truth in truths], truths)
    assert assign(J, F).tolist() == [3, 0, 2]


def test_a_proposal_is_one_object_throughout_the_sequence():
    truths = [boxes(A, B)] * 3
    J, F = measure_sequence([boxes(A, B), boxes(B, A), boxes(A, B)], truths)
    chosen = assign(J, F)
    assert chosen.tolist() == [0, 1]
    assert J[:, chosen, [0, 1]].tolist() == [[1, 1], [0, 0], [1, 1]]


def test_proposals_that_fit_nothing_cost_nothing():
    truth = boxes(A, B)
    J, F = measure_sequence([boxes(C, A, (5, 40), B)], [truth])
    chosen = assign(J, F)
    assert chosen.tolist() == [1, 3]
    assert J[0, chosen, [0, 1]].tolist() == F[0, chosen, [0, 1]].tolist() == [1, 1]


def test_the_best_total_counts_not_the_best_single_match():
    J = np.array([[[0.9, 0.8], [0.7, 0.0]]])
    assert assign(J, J).tolist() == [1, 0]  # 0.7 + 0.8 is more than 0.9 + 0.0


def test_j_and_f_count_alike_and_so_do_all_frames():
    J = np.array([[[0.2, 0.0], [0.6, 0.0]], [[0.6, 0.0], [0.4, 0.0]]])
    F = np.zeros((2, 2, 2))
    assert assign(J, F).tolist() == [1, 0]
    F[0, 0, 0] = 0.3
    assert assign(J, F).tolist() == [0, 1]


def test_an_empty_proposal_more_would_be_the_best_for_an_object_that_is_mostly_absent():
    truths = [boxes(A, B), boxes(A), boxes(A)]
    predictions = [boxes(A, B), boxes(A, C), boxes(A, C)]
    J, F = measure_sequence(predictions, truths)
    assert assign(J, F).tolist() == [0, 1]
    measured = [measure_frame(p, g, 3, 2) for p, g in zip(predictions, truths, strict=True)]
    assert assign(*map(np.stack, zip(*measured, strict=True))).tolist() == [0, 2]


def test_objects_that_the_first_frame_does_not_show_are_background():
    first, later = boxes(A, B), boxes(A, B, C)
    first[-5:] = 255
    assert count_objects(first) == 2
    J, F = measure_frame(later, later, 3, 2)
    assert J.tolist() == F.tolist() == [[1, 0], [0, 1], [0, 0]]
    J, F = measure_objects(first * (first < 255), later, 2)
    assert J.tolist() == F.tolist() == [1, 1]


def test_void_counts_for_nothing_among_proposals_and_as_background_among_objects():
    truth = boxes(A)
    truth[5:15, 15:25] = 255
    labels = (truth != 0).astype(np.uint8)  # the object, and as much of the void beside it
    assert measure_frame(labels, truth, 1, 1)[0] == measure_frame(labels, truth, 1, 1)[1] == 1
    J, F = measure_objects(labels, truth, 1)
    assert J == 0.5 and F < 1


def test_labels_of_any_whole_type_measure_alike():
    truth = boxes(A, B)
    labels = boxes((7, 5), (25, 32))
    expected = np.stack(measure_frame(labels, truth, 2, 2))
    for dtype in (np.int8, np.int64, np.uint64):
        measured = measure_frame(labels.astype(dtype), truth.astype(dtype), 2, 2)
        assert (np.stack(measured) == expected).all()
    one = measure_objects(labels == 1, truth == 1, 1)
    assert (np.stack(one)[:, 0] == expected[:, 0, 0]).all()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (boxes(A, size=(60, 81)), r"\(60, 81\)"),
        (boxes(A)[None], r"\(1, 60, 80\)"),
        (boxes(A).astype(np.float32), "float32"),
        (boxes(A).astype(np.int16) - 1, "background"),
        (boxes(A).astype(np.uint16) * 1000, "up to 255"),
        (boxes(A, B, C), "label 3, but 2 is the highest"),
        (boxes(A) * 255, "label 255"),
    ],
)
def test_what_is_no_label_map_or_has_too_many_labels_is_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        measure_objects(labels, boxes(A, B), 2)
    with pytest.raises(ValueError, match=words):
        measure_frame(labels, boxes(A, B), 2, 2)


def test_senseless_numbers_of_objects_and_proposals_are_refused():
    void = np.full((60, 80), 255, np.uint8)
    for first in (np.zeros((60, 80), np.uint8), void):
        with pytest.raises(ValueError, match="no object"):
            count_objects(first)
    with pytest.raises(ValueError, match="allows 20"):
        measure_frame(boxes(A), boxes(A), PROPOSALS + 1, 1)
    for J in (np.zeros((4, 2, 3)), np.zeros((0, 3, 3)), np.zeros((3, 3))):
        with pytest.raises(ValueError, match="what measure_frame returns"):
            assign(J, J)
    with pytest.raises(ValueError, match="what measure_frame returns"):
        assign(np.zeros((4, 3, 3)), np.zeros((5, 3, 3)))
