"""Scores that follow the colours of their frame."""

import cv2
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxvos.colour_guided import LIKELY, cut, guided, likelihood_ratio, matched, reduced, settled
from jaxvos.inference import to_size


def two_colours(size=(60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """A frame with a disc of another colour, and the disc."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = (rows - size[0] / 2) ** 2 + (columns - size[1] / 2) ** 2 < (size[0] / 4) ** 2
    rng = np.random.default_rng(0)
    frame = np.where(disc[..., None], [200, 80, 60], [60, 120, 90]) + rng.normal(0, 6, (*size, 3))
    return frame.clip(0, 255).astype(np.uint8), disc


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def shifted_disc():
    """A frame, its disc, and scores of a disc beside it whose outline is soft."""
    frame, disc = two_colours()
    return frame, disc, cv2.GaussianBlur(np.roll(disc, 4, axis=1).astype(np.float32), (0, 0), 4)


def foreground(picture, scores):
    return cut(picture, scores).foreground


@pytest.mark.parametrize("follow", [settled, foreground, matched])
def test_a_blurred_outline_comes_back_to_the_colours(follow):
    frame, disc, blurred = shifted_disc()
    found = follow(frame, blurred)
    assert found.shape == disc.shape and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert iou(found > 0.5, disc) > iou(blurred > 0.5, disc) + 0.05
    np.testing.assert_array_equal(found, follow(frame, blurred))


def test_a_cut_is_all_or_nothing_and_keeps_what_is_sure():
    frame, _, blurred = shifted_disc()
    assert set(np.unique(foreground(frame, blurred))) == {0, 1}
    blurred[:10], blurred[-10:] = 0, 1  # against the colours
    found = foreground(frame, blurred)
    assert not found[:10].any() and found[-10:].all()


@pytest.mark.parametrize("follow", [settled, foreground, matched])
def test_nothing_stays_nothing_and_everything_everything(follow):
    frame, disc = two_colours()
    for level in (0.0, 1.0):
        found = follow(frame, np.full(disc.shape, level, np.float32))
        np.testing.assert_allclose(found, level, atol=0.01)


def mixture(weights, means, covariances):
    """A mixture of colours as GrabCut gives it."""
    return np.concatenate([np.ravel(x) for x in (weights, means, covariances)])[None]


def test_the_ratio_is_that_of_the_densities_of_both_mixtures():
    rng = np.random.default_rng(0)
    picture = rng.integers(90, 160, (5, 7, 3), np.uint8)
    sides, densities = [], []
    for weights in ([0.1, 0.2, 0.3, 0.4, 0.0], [0.5, 0.0, 0.2, 0.1, 0.2]):
        means = rng.uniform(90, 160, (5, 3))
        roots = rng.normal(0, 12, (5, 3, 3))
        spreads = roots @ roots.transpose(0, 2, 1) + 50 * np.eye(3)
        spreads[np.equal(weights, 0)] = 0  # as GrabCut leaves what it found no pixels for
        sides.append(mixture(weights, means, spreads))
        density = [
            w * multivariate_normal(m, c + 0.01 * np.eye(3)).pdf(picture)
            for w, m, c in zip(weights, means, spreads, strict=True)
            if w
        ]
        densities.append(np.sum(density, axis=0))
    found = likelihood_ratio(picture, *sides)
    assert found.shape == (5, 7) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.log(densities[1] / densities[0]), atol=2e-3)
    np.testing.assert_allclose(likelihood_ratio(picture, *sides[::-1]), -found, atol=1e-5)
    far = [mixture([1, 0, 0, 0, 0], np.full((5, 3), mean), np.zeros((5, 3, 3))) for mean in (0, 9)]
    assert (likelihood_ratio(picture, *far) > 10).all(), "far from both, but nearer to the second"


def test_scores_are_half_of_the_cut_and_moved_by_the_colours_at_their_own_size():
    frame, disc, blurred = shifted_disc()
    size = 30, 40
    given = to_size(blurred, size)
    answer = cut(frame, to_size(given, disc.shape))
    mixed = ((given + to_size(answer.foreground, size)) / 2).clip(0.01, 0.99)
    small = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
    evidence = likelihood_ratio(small, *answer.colours)
    assert (evidence > 2).any() and (evidence < -2).any() and LIKELY == 2, "both ends are tried"
    logits = np.log(mixed / (1 - mixed)) + evidence.clip(-2, 2)
    found = matched(frame, given)
    assert found.shape == size and found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_few_pixels_tell_no_colours():
    frame, disc = two_colours()
    few = np.zeros(disc.shape, np.float32)
    few[:2, :9] = 0.9
    answer = cut(frame, few)
    assert answer.colours is None
    np.testing.assert_array_equal(answer.foreground, few > 0.5)
    np.testing.assert_allclose(matched(frame, few), (few + (few > 0.5)) / 2)


@pytest.mark.parametrize(("plain", "left"), [(True, 1), (False, 0)])
def test_a_side_that_loses_all_its_pixels_makes_no_colour_likely(plain, left):
    frame = np.full((60, 80, 3), 100, np.uint8)
    if not plain:
        frame[np.random.default_rng(0).random((60, 80)) < 0.5] = 255
    scores = np.full((60, 80), 0.1, np.float32)
    scores[20:40, 20:50] = 0.8
    answer = cut(frame, scores)
    assert answer.colours is None and (answer.foreground == left).all()
    np.testing.assert_allclose(matched(frame, scores), (scores + left) / 2)


def test_the_filter_is_a_linear_fit_in_every_window():
    rng = np.random.default_rng(0)
    guide = rng.random((12, 14, 3)).astype(np.float32)
    values = rng.random((12, 14)).astype(np.float32)
    found = guided(guide, values, radius=2, eps=1e-2)
    fits = np.zeros((12, 14, 4))
    pad = [(2, 2), (2, 2)]
    colours, levels = np.pad(guide, [*pad, (0, 0)], "symmetric"), np.pad(values, pad, "symmetric")
    for y in range(12):
        for x in range(14):
            c = colours[y : y + 5, x : x + 5].reshape(-1, 3).astype(float)
            v = levels[y : y + 5, x : x + 5].ravel().astype(float)
            spread = np.cov(c.T, bias=True) + 1e-2 * np.eye(3)
            slope = np.linalg.solve(spread, ((c - c.mean(0)) * (v - v.mean())[:, None]).mean(0))
            fits[y, x] = [*slope, v.mean() - slope @ c.mean(0)]
    fits = np.pad(fits, [*pad, (0, 0)], "symmetric")
    for y, x in ((0, 0), (5, 7), (11, 13), (6, 1)):
        mean = fits[y : y + 5, x : x + 5].reshape(-1, 4).mean(0)
        assert found[y, x] == pytest.approx(mean[:3] @ guide[y, x] + mean[3], abs=1e-4)


@pytest.mark.parametrize(
    ("size", "shorter", "expected"),
    [((500, 310), 240, (387, 240)), ((480, 854), 160, (160, 285)), ((60, 80), 240, (60, 80))],
)
def test_frames_are_looked_at_small_and_never_enlarged(size, shorter, expected):
    frame, _ = two_colours(size)
    assert reduced(frame, shorter).shape == (*expected, 3)
