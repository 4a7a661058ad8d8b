"""The saliency measures: equal to the original evaluator's numbers, and to their definitions."""

import json

import numpy as np
import pytest

from jaxvos.metrics.saliency import score_map, summarise_maps

EXACT = 1e-12
CURVE = 1e-7  # curves are kept in 32 bits
EPS = np.finfo(float).eps


def disk(size=(40, 60), centre=(20, 30), radius=10):
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def soft_map(rng, mask, low=0, high=255):
    """A noisy map that is brighter on the mask, with every level of the range possible."""
    noise = rng.integers(0, (high - low) // 2 + 1, mask.shape)
    return (low + noise + mask * ((high - low) // 2)).astype(np.uint8)


def reference(shared_data, normalize):
    """For each map its name, the map, the mask and the original's numbers; and their averages."""
    kind = "normalized_minmax" if normalize else "not_normalized"
    expected = json.loads((shared_data / "metrics/saliency.json").read_text())
    packed = np.load(shared_data / "metrics/saliency.npz")
    height, width = expected["shape"]
    maps = []
    for name, numbers in expected[kind]["per_image"].items():
        bits = np.unpackbits(packed[f"{name}__gt"], count=height * width)
        mask = bits.reshape(height, width).astype(bool)
        maps.append((name, packed[f"{name}__pred"], mask, numbers))
    return maps, expected[kind]["aggregate"]


@pytest.mark.parametrize("normalize", [True, False])
def test_every_map_scores_as_in_the_original_evaluator(shared_data, normalize):
    maps, _ = reference(shared_data, normalize)
    for name, picture, mask, expected in maps:
        measured = score_map(picture, mask, normalize)
        assert abs(measured.mae - expected["MAE"]) < EXACT, name
        assert abs(measured.s - expected["Sm"]) < EXACT, name
        assert abs(measured.adaptive_f - expected["Fadp"]) < EXACT, name
        assert abs(measured.adaptive_e - expected["Eadp"]) < EXACT, name
        for ours, theirs in (
            (measured.precision, "precision_curve"),
            (measured.recall, "recall_curve"),
            (measured.f_curve, "F_curve"),
            (measured.e_curve, "E_curve"),
        ):
            assert np.abs(ours - expected[theirs]).max() < CURVE, (name, theirs)
    assert len(maps) == 25


@pytest.mark.parametrize("normalize", [True, False])
def test_averages_over_maps_are_those_of_the_original_evaluator(shared_data, normalize):
    maps, expected = reference(shared_data, normalize)
    measured = summarise_maps([score_map(picture, mask, normalize) for _, picture, mask, _ in maps])
    names = {
        "MAE": "MAE",
        "S": "Sm",
        "F_max": "Fmax_of_mean_curve",
        "F_mean": "Fmean",
        "F_adaptive": "Fadp",
        "F_max_per_picture": "Fmax_mean_of_max",
        "E_max": "Emax_of_mean_curve",
        "E_mean": "Emean",
        "E_adaptive": "Eadp",
    }
    assert measured.keys() == names.keys()
    for ours, theirs in names.items():
        assert abs(measured[ours] - expected[theirs]) < CURVE, ours


def defined_f(found, mask):
    """Precision, recall and F of a binary map, from its pixels."""
    right = (found & mask).sum()
    precision = right / found.sum() if found.any() else 0.0
    recall = right / mask.sum() if mask.any() else 0.0
    both = 0.3 * precision + recall
    return precision, recall, 1.3 * precision * recall / both if both else 0.0


def defined_e(found, mask):
    """Enhanced alignment of a binary map, from its pixels."""
    b, g = found - found.mean(), mask - mask.mean()
    if not mask.any() or mask.all():
        return (found == mask).sum() / (mask.size - 1)
    aligned = 2 * b * g / (b**2 + g**2 + EPS)
    return ((aligned + 1) ** 2 / 4).sum() / (mask.size - 1)


def defined_s(p, mask):
    """Structure measure of a map in [0, 1], from its pixels."""

    def even(x):
        deviation = x.std(ddof=1) if x.size > 1 else 0.0
        return 2 * x.mean() / (x.mean() ** 2 + 1 + deviation)

    def together(x, y):  # exactly 0 where either is constant
        flat = not (np.ptp(x) and np.ptp(y))
        return 0.0 if flat else ((x - x.mean()) * (y - y.mean())).sum() / (x.size - 1)

    def alike(x, y):
        above = 4 * x.mean() * y.mean() * together(x, y)
        below = (x.mean() ** 2 + y.mean() ** 2) * (together(x, x) + together(y, y))
        return above / (below + EPS) if above else float(below == 0)

    share = mask.mean()
    objects = share * even(p[mask]) + (1 - share) * even(1 - p[~mask])
    y, x = (int(np.round(positions.mean())) + 1 for positions in np.nonzero(mask))
    regions = 0
    for rows in (slice(0, y), slice(y, None)):
        for columns in (slice(0, x), slice(x, None)):
            block = p[rows, columns]
            if block.size:
                regions += block.size / p.size * alike(block, mask[rows, columns].astype(float))
    return max(0.0, (objects + regions) / 2)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (30, 200), (7, 8), (0, 90)])
def test_every_measure_is_its_definition_on_random_maps(normalize, low, high):
    rng = np.random.default_rng(5)
    masks = [disk((23, 31), (9, 17), radius) for radius in (1, 5, 9)]
    masks.append(rng.random((23, 31)) < 0.5)
    masks.append(np.pad(np.ones((2, 2), bool), ((2, 19), (5, 24))))  # centred on (2.5, 5.5)
    for mask in masks:
        picture = soft_map(rng, mask, low, high)
        picture[0, :2] = low, high
        p = picture / 255
        if normalize:
            p = (p - p.min()) / (p.max() - p.min())
        measured = score_map(picture, mask, normalize)
        assert measured.mae == pytest.approx(np.abs(p - mask).mean(), abs=EXACT)
        assert measured.s == pytest.approx(defined_s(p, mask), abs=EXACT)
        adaptive = p >= min(2 * p.mean(), 1)
        assert measured.adaptive_f == pytest.approx(defined_f(adaptive, mask)[2], abs=EXACT)
        assert measured.adaptive_e == pytest.approx(defined_e(adaptive, mask), abs=EXACT)
        binary = [(p * 255).astype(int) >= threshold for threshold in range(255, -1, -1)]
        curves = np.array([(*defined_f(each, mask), defined_e(each, mask)) for each in binary]).T
        ours = (measured.precision, measured.recall, measured.f_curve, measured.e_curve)
        assert np.abs(np.stack(ours) - curves).max() < CURVE


def test_a_mask_taken_as_the_map_is_perfect():
    mask = disk()
    measured = score_map(np.where(mask, 255, 0).astype(np.uint8), mask)
    assert measured.mae == 0
    assert measured.s == pytest.approx(1)
    assert measured.adaptive_f == 1
    assert measured.adaptive_e == pytest.approx(mask.size / (mask.size - 1))
    assert (measured.f_curve[:-1] == 1).all()  # at threshold 0 everything is foreground
    assert measured.f_curve[-1] == pytest.approx(1.3 * mask.mean() / (0.3 * mask.mean() + 1))


def test_only_stretched_maps_score_alike_at_any_contrast():
    mask = disk()
    picture = soft_map(np.random.default_rng(0), mask, 0, 50)
    picture[0, :2] = 0, 50
    bright = picture * 5 + 3
    assert score_map(picture, mask).mae == pytest.approx(score_map(bright, mask).mae)
    assert score_map(picture, mask).s == pytest.approx(score_map(bright, mask).s)
    plain = score_map(picture, mask, normalize=False), score_map(bright, mask, normalize=False)
    assert abs(plain[0].mae - plain[1].mae) > 0.1


def test_a_constant_map_is_never_stretched():
    mask = disk()
    for level in (0, 51, 255):
        picture = np.full(mask.shape, level, np.uint8)
        measured = score_map(picture, mask)
        expected = mask.mean() * (1 - level / 255) + (1 - mask.mean()) * level / 255
        assert measured.mae == pytest.approx(expected)
        assert measured.s == score_map(picture, mask, normalize=False).s


def test_stretched_levels_are_truncated_as_floats():
    picture = np.arange(30, 201, dtype=np.uint8)[None]
    reached = score_map(picture, np.ones(picture.shape, bool)).recall[:-1].astype(float)
    exact = (np.arange(171) * 255 // 170).sum()
    assert exact - round(reached.sum() * 171) == 8


def test_without_or_with_nothing_but_foreground_the_map_should_be_dark_or_bright():
    picture = np.full((4, 5), 51, np.uint8)
    assert score_map(picture, np.zeros((4, 5), bool)).s == pytest.approx(0.8)
    assert score_map(picture, np.ones((4, 5), bool)).s == pytest.approx(0.2)
    assert score_map(picture, np.zeros((4, 5), bool)).recall.max() == 0
    picture[0] = 255
    dark, bright = (score_map(picture, np.full((4, 5), full)).e_curve for full in (False, True))
    assert dark[:-1] == pytest.approx(np.full(255, 15 / 19)) and dark[-1] == 0
    assert bright[:-1] == pytest.approx(np.full(255, 5 / 19)) and bright[-1] == pytest.approx(
        20 / 19
    )


def test_an_inverted_mask_is_as_wrong_as_can_be():
    mask = disk()
    measured = score_map(np.where(mask, 0, 255).astype(np.uint8), mask)
    assert measured.mae == 1
    assert measured.s == measured.adaptive_f == 0
    assert measured.adaptive_e == pytest.approx(0)


def test_an_object_in_the_last_corner_leaves_three_blocks_empty():
    mask = np.zeros((12, 16), bool)
    mask[-1, -1] = True
    picture = np.where(mask, 255, 0).astype(np.uint8)
    assert score_map(picture, mask).s == pytest.approx(1)


def test_a_flat_block_without_foreground_is_alike_whatever_its_grey():
    mask = np.zeros((12, 16), bool)
    mask[:4, 10:] = mask[8:, :6] = True  # the blocks meet at (7, 9); two have no foreground
    empty, share = (7 * 9 + 5 * 7) / mask.size, mask.mean()
    for level in range(256):
        c = level / 255
        objects = share * 2 * c / (c**2 + 1) + (1 - share) * 2 * (1 - c) / ((1 - c) ** 2 + 1)
        measured = score_map(np.full(mask.shape, level, np.uint8), mask).s
        assert measured == pytest.approx((objects + empty) / 2), level


def test_the_highest_point_is_that_of_the_average_curve():
    mask = disk()
    scores = [score_map((mask * 100).astype(np.uint8), mask, normalize=False)]
    scores.append(score_map((~mask * 50 + mask * 200).astype(np.uint8), mask, normalize=False))
    summary = summarise_maps(scores)
    assert summary["F_max"] == pytest.approx(1)
    assert summary["F_max_per_picture"] == pytest.approx(1)
    assert summary["E_max"] == pytest.approx(mask.size / (mask.size - 1))
    assert summary["E_mean"] == pytest.approx(np.mean([each.e_curve for each in scores]))
    assert summary["MAE"] == pytest.approx((scores[0].mae + scores[1].mae) / 2)
    # The first map is perfect up to threshold 100, the second above 150: never both at once.
    scores[1] = score_map((~mask * 150 + mask * 200).astype(np.uint8), mask, normalize=False)
    assert summarise_maps(scores)["F_max"] < 0.8
    assert summarise_maps(scores)["F_max_per_picture"] == pytest.approx(1)


def test_grey_truth_is_foreground_above_128():
    mask = disk()
    picture = soft_map(np.random.default_rng(1), mask)
    grey = np.where(mask, 129, 128).astype(np.uint8)
    assert score_map(picture, grey).mae == score_map(picture, mask).mae


@pytest.mark.parametrize(
    ("prediction", "truth", "words"),
    [
        (np.zeros((40, 61), np.uint8), disk(), r"\(40, 61\)"),
        (np.zeros((40, 60, 1), np.uint8), disk(), r"\(40, 60, 1\)"),
        (np.zeros((1, 1), np.uint8), np.ones((1, 1), bool), r"\(1, 1\)"),
        (np.full((40, 60), 0.3, np.float32), disk(), r"np\.round\(255 \* p\)"),
        (np.zeros((40, 60), np.uint16), disk(), "65535"),
        (np.zeros((40, 60), np.uint8), disk().astype(np.uint8), "truth != 0"),
        (np.zeros((40, 60), np.uint8), disk().astype(np.float32), "truth is float32"),
    ],
)
def test_what_is_no_map_or_no_mask_is_refused(prediction, truth, words):
    with pytest.raises(ValueError, match=words):
        score_map(prediction, truth)


def test_a_summary_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no maps"):
        summarise_maps([])
