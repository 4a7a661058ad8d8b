"""Augmentation: what happens to pictures whose pixels say where they come from."""

import numpy as np
import pytest

from data_pipelines.augment import (
    AUGMENTATIONS,
    cosnet,
    flip_crop,
    matnet,
    moved_flow,
    moved_map,
    moved_points,
    pdb,
    raft,
    squash,
    squashed_back,
    stretch,
    tmo,
)

H, W = 60, 100


def rows_and_columns() -> np.ndarray:
    """A picture [60, 100, 3] uint8 of its own coordinates: 4 x row, 2 x column, 0."""
    rows, columns = np.mgrid[:H, :W]
    return np.stack([4 * rows, 2 * columns, 0 * rows], axis=-1).astype(np.uint8)


def left_box() -> np.ndarray:
    """A mask [60, 100] of an object in the left half, labelled 255."""
    mask = np.zeros((H, W), np.uint8)
    mask[10:50, 12:44] = 255
    return mask


def test_cosnet_keeps_a_window_of_nine_tenths_at_every_offset_but_the_last():
    tops, lefts = set(), set()
    for seed in range(200):
        picture, *_ = cosnet(rows_and_columns(), left_box(), np.random.default_rng(seed))
        rows, columns = picture[..., 0] / 4, picture[..., 1] / 2
        assert np.ptp(rows) == pytest.approx(0.9 * H - 1, abs=1)
        assert np.ptp(columns) == pytest.approx(0.9 * W - 1, abs=1)
        tops.add(round(float(rows.min()) - 0.2))
        lefts.add(round(float(columns.min()) - 0.2))
    assert tops == set(range(6))
    assert lefts == set(range(10))


def test_cosnet_scales_by_seven_to_thirteen_tenths_with_the_sides_swapped():
    shapes = [
        cosnet(rows_and_columns(), left_box(), np.random.default_rng(seed))[0].shape
        for seed in range(100)
    ]
    scales = np.array([(height / 90, width / 54) for height, width, _ in shapes])
    np.testing.assert_allclose(scales[:, 0], scales[:, 1], atol=0.02)
    assert 0.68 <= scales.min() < 0.75
    assert 1.25 < scales.max() <= 1.3


def test_cosnet_mirrors_half_of_the_frames_whatever_their_scale():
    mirrored, enlarged = [], []
    for seed in range(300):
        picture, *_ = cosnet(rows_and_columns(), left_box(), np.random.default_rng(seed))
        mirrored.append(picture[0, 0, 1] > picture[0, -1, 1])
        enlarged.append(picture.shape[0] > 90)
    mirrored, enlarged = np.array(mirrored), np.array(enlarged)
    assert 0.4 < mirrored[enlarged].mean() < 0.6
    assert 0.4 < mirrored[~enlarged].mean() < 0.6


def test_flip_crop_keeps_three_fifths_or_more_of_the_area_and_mirrors_half():
    areas, mirrored = [], []
    for seed in range(200):
        picture, mask, _ = flip_crop(rows_and_columns(), left_box(), np.random.default_rng(seed))
        assert picture.shape[:2] == mask.shape
        areas.append(mask.size / (H * W))
        mirrored.append(int(picture[0, 0, 1]) > int(picture[0, -1, 1]))
    # A window that does not fit is cut: 0.6 of the area at 4/3 of the aspect still does.
    assert 0.59 < min(areas) < 0.65
    assert max(areas) > 0.9
    assert 0.4 < np.mean(mirrored) < 0.6


def test_flip_crop_changes_colours_a_little():
    grey = np.full((H, W, 3), 128, np.uint8)
    changes = []
    for seed in range(100):
        picture, *_ = flip_crop(grey, left_box(), np.random.default_rng(seed))
        assert np.ptp(picture, axis=(0, 1)).max() == 0
        changes.append(int(picture[0, 0, 0]) - 128)
    assert 10 < np.abs(changes).max() <= 16


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_mask_stays_on_its_object(name):
    picture = np.repeat(left_box()[..., None], 3, axis=-1)
    for seed in range(20):
        augmented = AUGMENTATIONS[name](picture, left_box(), np.random.default_rng(seed))
        small, mask = squash(*augmented[:2], (40, 40))
        bright, object_ = small[..., 0] > 127, mask[..., 0] == 1
        assert (bright & object_).sum() > 0.8 * (bright | object_).sum()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_draws_give_the_same_pair(name):
    first, again, other = (
        AUGMENTATIONS[name](rows_and_columns(), left_box(), np.random.default_rng(seed))
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert np.array_equal(first[0], other[0]) == (name == "none")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_picture_of_one_pixel_survives(name):
    picture, mask = np.full((1, 1, 3), 7, np.uint8), np.ones((1, 1), np.uint8)
    for seed in range(10):
        augmented = AUGMENTATIONS[name](picture, mask, np.random.default_rng(seed))
        small, binary = squash(*augmented[:2], (5, 4))
        assert small.shape == (5, 4, 3)
        assert binary.shape == (5, 4, 1)
        assert binary.all()


def test_stretch_takes_all_channels_together_and_rounds_halves_up():
    picture = np.array([[[10, 11, 13], [14, 61, 112]]], np.uint8)
    np.testing.assert_array_equal(stretch(picture), [[[0, 3, 8], [10, 128, 255]]])


def test_stretch_turns_a_picture_of_one_value_black():
    np.testing.assert_array_equal(stretch(np.full((2, 3, 3), 200, np.uint8)), 0)


def test_squash_averages_the_picture_and_picks_from_the_mask():
    board = (np.indices((32, 48)).sum(axis=0) % 2 * 255).astype(np.uint8)
    labels = np.where(board, 255, 0).astype(np.uint8)
    small, mask = squash(np.repeat(board[..., None], 3, axis=-1), labels, (8, 8))
    assert np.abs(small.astype(int) - 127).max() <= 2
    assert set(np.unique(mask)) <= {0, 1}


def test_every_value_of_a_mask_but_zero_is_foreground():
    labels = np.array([[0, 1], [3, 255]], np.uint8)
    _, mask = squash(np.zeros((2, 2, 3), np.uint8), labels, (2, 2))
    np.testing.assert_array_equal(mask[..., 0], [[0, 1], [1, 1]])


def coloured(name: str) -> bool:
    """Whether an augmentation changes colours, so that pixels no longer say where they were."""
    return name in ("flip_crop", "raft")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_says_where_its_pixels_were(name):
    rows, columns = np.mgrid[:H, :W]
    for seed in range(30):
        mask = (4 * rows).astype(np.uint8)  # nothing recolours the mask
        picture, mask, back = AUGMENTATIONS[name](
            rows_and_columns(), mask, np.random.default_rng(seed)
        )
        across = AUGMENTATIONS[name](
            rows_and_columns(), (2 * columns).astype(np.uint8), np.random.default_rng(seed)
        ).mask
        assert picture.shape[:2] == mask.shape
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        was = back @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
        # What comes from beyond the picture was nowhere.
        seen = (was > -0.4).all(axis=0) & (was[0] < W - 0.6) & (was[1] < H - 0.6)
        assert seen.mean() > (0.5 if name == "matnet" else 0.99)
        assert np.abs(across.ravel() / 2 - was[0])[seen].max() <= 2
        assert np.abs(mask.ravel() / 4 - was[1])[seen].max() <= 2


def test_pdb_mirrors_turns_and_cuts_strips():
    kinds, areas = set(), []
    for seed in range(200):
        _, mask, back = pdb(rows_and_columns(), left_box(), np.random.default_rng(seed))
        kinds.add(tuple(np.rint(back[:, :2]).astype(int).ravel().tolist()))
        areas.append(mask.size / (H * W))
    assert len(kinds) == 8 and 0.64 < min(areas) < 0.75 and max(areas) > 0.95


def test_raft_zooms_in_and_turns_some_upside_down():
    zooms, upside = [], []
    for seed in range(300):
        *_, back = raft(rows_and_columns(), left_box(), np.random.default_rng(seed))
        upside.append(back[1, 1] < 0)
        zooms.append(raft(rows_and_columns(), left_box(), np.random.default_rng(seed)).mask.shape)
    assert 0.05 < np.mean(upside) < 0.17
    heights = np.array(zooms)[:, 0] / H
    assert 0.4 < heights.min() < 0.5 and heights.max() == 1


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if not coloured(name)])
def test_flow_moves_with_its_frame(name):
    rng = np.random.default_rng(0)
    flow = np.stack([0.1 * np.mgrid[:H, :W][1], -0.05 * np.mgrid[:H, :W][0]], -1) + 1
    for _ in range(10):
        picture, mask, back = AUGMENTATIONS[name](rows_and_columns(), left_box(), rng)
        back = squashed_back(back, mask.shape, (30, 40))
        moved = moved_flow(flow, back, (30, 40))
        small, _ = squash(picture, mask, (30, 40))
        y, x = 15, 20  # the end of an arrow is where its end was
        start = back @ (x, y, 1)
        arrow = np.array([0.1 * start[0], -0.05 * start[1]]) + 1
        np.testing.assert_allclose(back @ (*(moved[y, x] + (x, y)), 1), start + arrow, atol=0.02)
        np.testing.assert_allclose([small[y, x, 1] / 2, small[y, x, 0] / 4], start, atol=1.1)


def test_maps_and_points_move_with_their_frame():
    back = squashed_back(np.array([[-1.0, 0, W - 1], [0, 1, 0]]), (H, W), (H // 2, W // 2))
    points = np.zeros((H, W), bool)
    points[10, 20] = points[0, 0] = points[11, 21] = True
    moved = moved_points(points, back, (H // 2, W // 2))
    assert sorted(zip(*np.nonzero(moved), strict=True)) == [(0, 49), (5, 39)]
    values = np.zeros((H, W), np.float32)
    values[10:12, 20:22] = 1
    at = np.unravel_index(moved_map(values, back, (H // 2, W // 2)).argmax(), (H // 2, W // 2))
    assert at == (5, 39)
    shifted = np.array([[1.0, 0, 50], [0, 1, 0]])  # most of the picture is beyond the old one
    assert not moved_points(points, shifted, (H, W)).any()
    assert not moved_map(np.ones((H, W)), shifted, (H, W))[:, 51:].any()


def test_matnet_turns_and_scales_about_the_centre_and_lets_black_in():
    angles, scales, mirrors, black = [], [], 0, 0
    for seed in range(200):
        picture, mask, back = matnet(
            rows_and_columns() + 1, left_box(), np.random.default_rng(seed)
        )
        assert picture.shape == (H, W, 3) and mask.shape == (H, W)
        np.testing.assert_allclose(back @ [(W - 1) / 2, (H - 1) / 2, 1], [(W - 1) / 2, (H - 1) / 2])
        linear = back[:, :2] * ([1, -1][int(np.linalg.det(back[:, :2]) < 0)], 1)
        mirrors += np.linalg.det(back[:, :2]) < 0
        scales.append(1 / np.sqrt(abs(np.linalg.det(linear))))
        angles.append(np.degrees(np.arctan2(linear[1, 0], linear[1, 1])))
        black += (picture == 0).all(axis=-1).any()
    assert 0.75 <= min(scales) < 0.8 and 1.2 < max(scales) <= 1.25
    assert -10 <= min(angles) < -9 and 9 < max(angles) <= 10
    assert 70 < mirrors < 130 and black > 90


def test_tmo_mirrors_both_ways():
    seen = []
    for seed in range(200):
        picture, *_ = tmo(rows_and_columns(), left_box(), np.random.default_rng(seed))
        seen.append((int(picture[0, 0, 0]) > 4 * H / 2, int(picture[0, 0, 1]) > W))
    for way in ((False, False), (False, True), (True, False), (True, True)):
        assert 30 < seen.count(way) < 80
