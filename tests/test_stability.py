"""The temporal stability T: equal to the original evaluator's numbers, and to its definition."""

import json

import numpy as np
import pytest

from jaxvos.davis_layout import read_labels
from jaxvos.metrics import stability
from jaxvos.metrics.outlines import contour
from jaxvos.metrics.stability import (
    instability_of_pair,
    shape_context,
    temporal_instability,
)

PAIRS = 4  # of each real sequence; all together take half a minute


def disk(size=(60, 90), centre=(30, 40), radius=20, stretch=1.0):
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - centre[0]) ** 2 + ((x - centre[1]) / stretch) ** 2 <= radius**2


def box(top, bottom, left, right, size=(60, 90)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def defined_path(costs):
    """The cheapest path's sum by its definition, cell by cell."""
    sums = np.full(np.add(costs.shape, 1), np.inf)
    sums[1, 1] = 0
    for i, j in np.ndindex(costs.shape):
        if i or j:
            sums[i + 1, j + 1] = costs[i, j] + min(sums[i, j], sums[i, j + 1], sums[i + 1, j])
    return sums[-1, -1]


@pytest.fixture
def cases(shared_data):
    described = json.loads((shared_data / "metrics/tstab_cases.json").read_text())["cases"]
    arrays = np.load(shared_data / "metrics/tstab_cases.npz")

    def mask(name, frame, shape):
        bits = np.unpackbits(arrays[f"{name}__{frame}"], count=shape[0] * shape[1])
        return bits.reshape(shape).astype(bool)

    return {
        name: (case, *(mask(name, frame, case["shape"]) for frame in "ab"), arrays)
        for name, case in described.items()
    }


def test_small_cases_score_as_in_the_original_evaluator(cases):
    for name, (case, a, b, _) in cases.items():
        measured = instability_of_pair(a, b)
        if case["T"] is None:
            assert np.isnan(measured), name
        else:
            assert abs(measured - case["T"]) < 1e-9, name
    assert len(cases) == 16


def test_outlines_costs_and_paths_are_those_of_the_original_evaluator(cases):
    compared = 0
    for name, (case, a, b, arrays) in cases.items():
        if case["T"] is None:
            continue
        points = contour(a), contour(b)
        for found, frame in zip(points, "ab", strict=True):
            np.testing.assert_array_equal(found, arrays[f"{name}__up_{frame}"], err_msg=name)
        costs = stability._costs(*map(shape_context, points))
        np.testing.assert_allclose(costs, arrays[f"{name}__cost"], rtol=0, atol=1e-7)
        path = stability._path(costs)
        np.testing.assert_array_equal(path, arrays[f"{name}__path0"][::-1], err_msg=name)
        assert list(stability._cheapest(costs, path)) == case["shift"], name
        compared += 1
    assert compared == 12


@pytest.mark.parametrize(
    ("sequence", "method", "first"),
    [
        ("blackswan", "rvos", 10),
        ("libby", "osvos", 33),
        ("libby", "gt", 26),
        ("car-shadow", "gt", 10),  # outlines that meet themselves and others at corners,
        ("drift-chicane", "gt", 29),  # and several times
    ],
)
def test_real_masks_score_as_in_the_original_evaluator(shared_data, sequence, method, first):
    record = json.loads((shared_data / "metrics/tstab_real.json").read_text())["sequences"][
        sequence
    ]
    annotations = shared_data / "data/davis16_dev/Annotations/480p"
    folder = annotations if method == "gt" else shared_data / "metrics/predictions" / method
    frames = sorted((folder / sequence).glob("*.png"))
    start = record["frame_pairs"].index([first, first + 1])
    expected = record[method]["T"][start : start + PAIRS]
    mean, pairs = temporal_instability(map(read_labels, frames[first : first + PAIRS + 1]))
    np.testing.assert_allclose(pairs, expected, rtol=0, atol=1e-3)
    assert mean == pytest.approx(np.mean(pairs))


def test_a_rectangle_is_outlined_clockwise_with_points_three_pixels_apart():
    expected = [(x, 5) for x in range(10, 22, 3)] + [(22, y) for y in (5, 8, 11)]
    expected += [(x, 14) for x in range(22, 10, -3)] + [(10, y) for y in (14, 11, 8, 5)]
    np.testing.assert_array_equal(contour(box(5, 14, 10, 22)), expected)


def test_a_longer_edge_is_cut_into_equal_parts():
    points = contour(box(0, 20, 0, 20))  # ceil(20 / 3) = 7 parts
    np.testing.assert_allclose(np.diff(points[:8, 0]), 20 / 7, rtol=1e-5)
    assert len(points) == 4 * 7 + 1


def test_holes_count_and_the_outline_with_most_vertices_is_kept():
    ring = box(0, 60, 0, 90) & ~disk(radius=12)
    points = contour(ring)
    assert len(points) > 20 and points.min() > 10 and points[:, 0].max() < 60
    x, y = points[:-1].T.astype(float)
    assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() < 0  # a hole runs the other way


def test_squares_that_touch_at_a_corner_are_two_outlines():
    touching = box(10, 20, 10, 20) | box(20, 35, 20, 35)
    points = contour(touching)
    np.testing.assert_array_equal([points.min(0), points.max(0)], [(20, 20), (35, 35)])


def test_a_hole_open_at_a_corner_is_an_outline_of_its_own():
    mask = box(10, 40, 10, 40) & ~box(15, 20, 30, 39)
    mask[14, 39] = False  # at the side: outside and hole now meet at (39, 15)
    x, y = contour(mask)[:-1].T.astype(float)
    area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
    assert area == pytest.approx(30 * 30, rel=0.03)


def test_specks_have_no_outline():
    for mask in (box(0, 0, 0, 0), box(3, 4, 3, 4), box(3, 5, 3, 5)):
        assert contour(mask) is None
        assert np.isnan(instability_of_pair(mask, disk()))
        assert np.isnan(instability_of_pair(disk(), mask))
    assert contour(box(3, 6, 3, 6)) is not None


def test_any_label_but_zero_is_foreground():
    labels = np.where(disk(), 255, 0).astype(np.uint8)
    labels[:30] = np.where(disk()[:30], 3, 0)
    np.testing.assert_array_equal(contour(labels), contour(disk()))


def test_a_shape_context_says_where_the_others_lie():
    corners = np.array([(0, 0), (4, 0), (4, 2.5), (0, 2.5)])  # mean distance 2.80
    histogram = shape_context(corners)[0].reshape(12, 5)
    expected = np.zeros((12, 5))
    expected[0, 4] += 1  # itself: the innermost ring is the last number
    expected[0, 0] += 1  # 1.43 to the right
    expected[1, 0] += 1  # 1.68 at 32 degrees downwards
    expected[3, 1] += 1  # 0.89 down
    np.testing.assert_allclose(histogram, expected / 4)


def test_far_points_count_nowhere():
    points = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (40, 0)])
    last = shape_context(points)[-1]
    assert last.max() == 1.0  # the four others are further than twice the mean


def test_costs_are_half_the_chi_square_distance():
    rng = np.random.default_rng(5)
    a, b = (rng.integers(0, 4, (n, 60)) * (rng.random((n, 60)) < 0.4) for n in (7, 5))
    a, b = (each / each.sum(1, keepdims=True) for each in (a, b))
    x, y = a[:, None], b[None]
    defined = 0.5 * ((x - y) ** 2 / (x + y + 2.2e-16)).sum(-1)
    np.testing.assert_allclose(stability._costs(a, b), defined, atol=1e-11)
    assert (np.diag(stability._costs(a, a)) == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2), (5, 17), (23, 9)])
def test_the_path_is_monotone_and_none_is_cheaper(shape):
    rng = np.random.default_rng(1)
    for digits in (9, 1):  # one digit: many are equal
        costs = rng.random(shape).round(digits)
        path = stability._path(costs)
        assert path[0].tolist() == [0, 0] and (path[-1] == np.subtract(shape, 1)).all()
        steps = np.diff(path, axis=0)
        assert np.isin(steps, (0, 1)).all() and (steps.sum(1) > 0).all()
        assert costs[tuple(path[1:].T)].sum() == pytest.approx(defined_path(costs), abs=1e-9)


def test_each_row_and_then_each_column_keeps_its_cheapest_match():
    costs = np.array([[0.9, 0.5, 0.0], [0.0, 0.1, 0.2], [0.0, 0.0, 0.4]])
    path = np.array([(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)])
    # rows keep (0, 1), (1, 1), (2, 2); of the first two column 1 keeps (1, 1)
    assert stability._mean_of_matches(costs, path) == pytest.approx((0.1 + 0.4) / 2)


def test_an_outline_that_only_moves_is_steady_and_one_that_changes_is_not():
    moved = disk(centre=(33, 45))
    assert instability_of_pair(disk(), disk()) == 0
    assert instability_of_pair(disk(), moved) < 0.01
    assert instability_of_pair(disk(), disk(stretch=1.3)) > 0.1
    assert instability_of_pair(disk(), disk(stretch=1.9)) > instability_of_pair(
        disk(), disk(stretch=1.3)
    )


def test_a_sequence_is_the_mean_over_its_pairs_without_those_that_have_none():
    masks = [disk(), disk(stretch=1.3), box(0, 0, 0, 0), disk(), disk(stretch=1.6)]
    mean, pairs = temporal_instability(iter(masks))
    assert len(pairs) == 4 and np.isnan(pairs[1]) and np.isnan(pairs[2])
    assert pairs[0] == instability_of_pair(masks[0], masks[1])
    assert mean == pytest.approx((pairs[0] + pairs[3]) / 2)


def test_each_outline_is_described_once(monkeypatch):
    described = []
    monkeypatch.setattr(
        stability, "shape_context", lambda points: described.append(1) or shape_context(points)
    )
    temporal_instability([disk(), disk(stretch=1.3), disk(stretch=1.6)])
    assert len(described) == 3


def test_a_sequence_without_a_pair_has_no_number():
    for masks in ([], [disk()], [box(0, 0, 0, 0)] * 3):
        assert np.isnan(temporal_instability(masks)[0])


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((60, 90, 1), bool), r"\(60, 90, 1\)"),
        (np.full((60, 90), 0.3, np.float32), "threshold"),
    ],
)
def test_what_is_no_mask_is_refused(mask, words):
    with pytest.raises(ValueError, match=words):
        contour(mask)
    with pytest.raises(ValueError, match=words):
        temporal_instability([mask, mask])


def test_masks_of_different_sizes_are_refused():
    other = disk(size=(60, 91))
    with pytest.raises(ValueError, match=r"\(60, 91\)"):
        instability_of_pair(disk(), other)
    with pytest.raises(ValueError, match=r"\(60, 91\)"):
        temporal_instability([disk(), other])


def test_points_without_an_extent_are_refused():
    for points in (np.zeros((4, 2)), np.zeros((1, 2)), np.zeros((4, 3))):
        with pytest.raises(ValueError, match="two different ones"):
            shape_context(points)
