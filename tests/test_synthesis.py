"""Clips made of stills: flow is exact, object and ground part, chance decides and nothing else."""

import pickle

import grain
import numpy as np
import pytest

from data_pipelines.augment import AUGMENTATIONS
from data_pipelines.still_clips import StillClips
from data_pipelines.synthesis import (
    Layer,
    blocks,
    displacement,
    grid,
    moving_still,
    onward,
    pulled,
    sampled,
    smoothed,
    uncovered,
)
from tests.made_up_data import made_up_images

SIZE = (90, 120)


def chance(seed=0):
    return np.random.default_rng(seed)


def still(size=SIZE, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """A picture so smooth that bilinear sampling hardly matters, and the mask of a disc."""
    y, x = np.mgrid[: size[0], : size[1]] / 9.0
    waves = [np.sin(x + 2 * c + seed) + np.cos(y - c) + np.sin((x + y) / 3 + c) for c in range(3)]
    picture = np.clip(128 + 40 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)
    inside = np.hypot(9 * y - size[0] / 2, 9 * x - size[1] / 2) < min(size) / 4
    return picture, np.where(inside, 255, 0).astype(np.uint8)


def followed(clip, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame t + 1 where frame t's pixels have moved, and which of these are seen there too.

    Those are left out that leave the picture, that something comes to cover, and that lie so near
    to the object's edge that a bilinear sample mixes both sides.
    """
    there = grid(clip.masks.shape[1:]) + clip.flow[t]
    height, width = clip.masks.shape[1:]
    x, y = there[..., 0], there[..., 1]
    kept = (x >= 1) & (x <= width - 2) & (y >= 1) & (y <= height - 2)
    for step in ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)):
        around = sampled(clip.masks[t + 1].astype(np.float32), there + np.array(step))
        kept &= around == clip.masks[t]
    return sampled(clip.frames[t + 1].astype(np.float32), there), kept


@pytest.mark.parametrize("seed", range(4))
def test_what_is_seen_at_one_time_is_found_along_the_flow_at_the_next(seed):
    picture, mask = still(seed=seed)
    clip = moving_still(picture, mask, chance(seed), frames=4)
    for t in range(3):
        ahead, kept = followed(clip, t)
        of_object = kept & (clip.masks[t] == 1)
        assert of_object.sum() > 400 and (kept & (clip.masks[t] == 0)).mean() > 0.5
        off = np.abs(ahead - clip.frames[t])[kept]
        # Pictures are whole levels, and samples of samples.
        assert off.mean() < 1 and np.percentile(off, 99) < 4, (t, off.mean())
        unmoved = np.abs(clip.frames[t + 1].astype(float) - clip.frames[t])[kept]
        assert unmoved.mean() > 5 * off.mean()


def test_masks_move_along_the_flow_too():
    clip = moving_still(*still(), chance(2), frames=3)
    for t in range(2):
        inside = grid(SIZE)[clip.masks[t] == 1] + clip.flow[t][clip.masks[t] == 1]
        ahead = sampled(clip.masks[t + 1].astype(np.float32), inside)
        assert (ahead > 0.5).mean() > 0.98
        assert abs(int(clip.masks[t + 1].sum()) - int(clip.masks[t].sum())) < 60


def test_motion_is_smooth_on_both_sides_and_breaks_off_at_the_objects_edge():
    picture, mask = still()
    for seed in range(5):
        flow, inside = moving_still(picture, mask, chance(seed)).flow[0], mask != 0
        steps = np.abs(np.diff(flow, axis=1)).max(axis=-1)
        edge = inside[:, 1:] != inside[:, :-1]
        apart = np.abs(flow[inside].mean(axis=0) - flow[~inside].mean(axis=0)).max()
        assert steps[~edge].max() < 0.3
        assert steps[edge].min() > apart - 1.5 and apart > 0.1


def test_the_object_covers_ground_on_one_side_and_uncovers_it_on_the_other():
    picture = np.full((*SIZE, 3), 40, np.uint8)
    mask = np.zeros(SIZE, np.uint8)
    mask[30:60, 40:80] = 1
    picture[mask != 0] = 200
    clip = moving_still(picture, mask, chance(1))
    ours = np.abs(clip.frames[1].astype(int) - np.where(clip.masks[1] != 0, 200, 40)[..., None])
    # The ground is of one colour everywhere, also where the object was: nothing stays behind.
    assert (ours > 80).mean() == 0 and (ours == 0).mean() > 0.95
    assert (clip.masks[1] > clip.masks[0]).any() and (clip.masks[1] < clip.masks[0]).any()


def test_a_clip_begins_with_its_still_and_with_every_shorter_clip():
    picture, mask = still()
    four = moving_still(picture, mask, chance(7), frames=4)
    np.testing.assert_array_equal(four.frames[0], picture)
    np.testing.assert_array_equal(four.masks[0], mask != 0)
    for frames in (1, 2, 3):
        clip = moving_still(picture, mask, chance(7), frames=frames)
        assert clip.frames.dtype == clip.masks.dtype == np.uint8 and clip.flow.dtype == np.float32
        assert clip.flow.shape == (frames - 1, *SIZE, 2)
        for ours, longer in zip(clip, four, strict=True):
            np.testing.assert_array_equal(ours, longer[: len(ours)])
    other = moving_still(picture, mask, chance(8))
    assert (other.flow != four.flow[:1]).any() and (other.frames[1] != four.frames[1]).any()


def test_motions_are_drawn_wider_for_the_object_and_grow_with_the_picture():
    mask = np.zeros((48, 64), np.uint8)
    mask[20:30, 20:40] = 1
    both = []
    for scale in (1, 2):
        large = np.kron(mask, np.ones((scale, scale), np.uint8))
        picture = np.zeros((*large.shape, 3), np.uint8)
        flows = [moving_still(picture, large, chance(seed)).flow[0] for seed in range(60)]
        both.append([np.std([f[large == k].mean(axis=0) for f in flows]) for k in (1, 0)])
    for (front, ground), scale in zip(both, (1, 2), strict=True):
        assert front == pytest.approx(0.03 * 48 * scale, rel=0.25)
        assert ground == pytest.approx(0.015 * 48 * scale, rel=0.25)


def test_a_constant_field_of_whole_pixels_moves_the_picture_by_them():
    rng = chance()
    picture = rng.integers(0, 256, (20, 30, 3)).astype(np.float32)
    ahead = pulled(picture, np.broadcast_to([3.0, -2.0], (20, 30, 2)))
    np.testing.assert_array_equal(ahead[0:18, 3:30], picture[2:20, 0:27])  # I'[y - 2, x + 3]
    np.testing.assert_array_equal(ahead[18:, 3:30], picture[[19, 19], :27])  # the edge goes on
    half = pulled(picture[..., 0], np.broadcast_to([0.5, 0.0], (20, 30, 2)))
    np.testing.assert_allclose(half[:, 1:], (picture[:, 1:, 0] + picture[:, :-1, 0]) / 2, rtol=1e-6)


def test_flow_onward_is_that_of_the_place_and_not_of_the_pixel():
    wobble = np.zeros((40, 50, 2), np.float32)
    wobble[..., 0] = np.linspace(0, 5, 50)  # x grows by 0.102 for each pixel
    layer = Layer(np.zeros((40, 50, 3), np.float32), np.array([2.0, -1.0]), wobble)
    seen = np.zeros((40, 50), bool)
    seen[20, 10] = True
    # At first: x = 10 + 2 + a x, hence x = 12 / (1 - a).
    there = 12 / (1 - 5 / 49)
    np.testing.assert_allclose(onward(layer, 0, seen), [[there - 10, -1]], atol=1e-4)
    # What is at pixel 10 then came from 10 - 2 - 10 a; the wobble is sqrt(2) as far at time 2.
    begin, a = 8 - 50 / 49, 5 / 49 * np.sqrt(2)
    np.testing.assert_allclose(displacement(layer, 1)[20, 10], [2 + 50 / 49, -1], atol=1e-5)
    there = (begin + 4) / (1 - a)
    np.testing.assert_allclose(onward(layer, 1, seen), [[there - 10, -1]], atol=1e-4)
    assert onward(layer, 0, np.zeros((40, 50), bool)).shape == (0, 2)


def test_blocks_are_numbered_row_by_row_and_smoothing_keeps_a_constant():
    found = blocks((10, 17), 8)
    assert found[7, 7] == 0 and found[7, 8] == 1 and found[0, 16] == 2 and found[8, 0] == 3
    assert len(np.unique(found)) == 6
    field = np.full((10, 17, 2), 3.0)
    np.testing.assert_allclose(smoothed(field, 2.0), field, rtol=1e-12)
    field[5, 8, 0] += 1
    spread = smoothed(field, 1.0) - 3
    assert spread[5, 8, 0] == pytest.approx(1 / (2 * np.pi), rel=1e-3) and not spread[..., 1].any()


def test_a_hole_is_filled_by_what_lies_beyond_its_nearest_edge():
    picture = np.tile(np.arange(20, dtype=np.float32)[:, None], (5, 1, 2))
    hole = np.zeros((5, 20), bool)
    hole[:, 8:12] = True
    filled = uncovered(picture, hole)
    np.testing.assert_array_equal(filled[2, 6:14, 0], [6, 7, 6, 5, 14, 13, 12, 13])
    np.testing.assert_array_equal(filled[~hole], picture[~hole])
    hole[:, 1:] = True  # nothing to mirror but the first column, which stands in
    assert (uncovered(picture, hole) == 0).all()
    for nothing in (np.ones((5, 20), bool), np.zeros((5, 20), bool)):
        np.testing.assert_array_equal(uncovered(picture, nothing), picture)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_everything_or_nothing_moves_as_one(value):
    picture, _ = still()
    clip = moving_still(picture, np.full(SIZE, value, np.uint8), chance(3))
    assert (clip.masks == (value != 0)).all()
    ahead, kept = followed(clip, 0)
    assert np.abs(ahead - clip.frames[0])[kept].mean() < 1


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (13, 7)])
def test_pictures_of_any_size_keep_it(size):
    picture, mask = still(size)
    clip = moving_still(picture, mask, chance(), frames=3)
    assert clip.frames.shape == (3, *size, 3) and np.isfinite(clip.flow).all()


def test_neither_picture_nor_mask_is_written_to():
    picture, mask = still()
    before = picture.copy(), mask.copy()
    picture.flags.writeable = mask.flags.writeable = False
    for frames in (1, 2):
        clip = moving_still(picture, mask, chance(), frames=frames)
        clip.frames[:], clip.masks[:] = 0, 0
    np.testing.assert_array_equal(picture, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"picture": np.zeros((4, 5), np.uint8)}, r"\[H, W, 3\] uint8, not \(4, 5\) uint8"),
        ({"picture": np.zeros((4, 5, 3), np.float32)}, r"not \(4, 5, 3\) float32"),
        ({"mask": np.zeros((5, 4), np.uint8)}, r"mask \(5, 4\) does not fit"),
        ({"frames": 0}, "at least one frame, not 0"),
    ],
)
def test_what_no_clip_can_be_made_of_is_refused(change, words):
    given = {"picture": np.zeros((4, 5, 3), np.uint8), "mask": np.zeros((4, 5), np.uint8)} | change
    with pytest.raises(ValueError, match=words):
        moving_still(rng=chance(), **given)


class Stills(list):
    """Images as `sources.images` gives them, one of which may be broken."""

    def __getitem__(self, number):
        image = super().__getitem__(number)
        if image is None:
            raise OSError("cut short")
        return image


def test_records_for_grain_are_clips_with_exact_flow_drawn_by_their_position():
    make = StillClips(made_up_images(), (32, 40), AUGMENTATIONS["flip_crop"], frames=3)
    records = grain.MapDataset.range(4).random_map(pickle.loads(pickle.dumps(make)), seed=5)
    first, again = records[2], records[2]
    assert first["frames"].shape == (3, 32, 40, 3) and first["frames"].dtype == np.uint8
    assert first["masks"].shape == (3, 32, 40, 1) and set(np.unique(first["masks"])) <= {0, 1}
    assert first["flow"].shape == (3, 32, 40, 2) and first["flow"].dtype == np.float32
    np.testing.assert_array_equal(first["flow"][2], first["flow"][1])
    for key in ("frames", "masks", "flow"):
        np.testing.assert_array_equal(first[key], again[key])
    assert (records[1]["flow"] != first["flow"]).any()
    plain = StillClips(made_up_images(1), (32, 40), AUGMENTATIONS["none"])(0, chance(1))
    augmented = StillClips(made_up_images(1), (32, 40), AUGMENTATIONS["flip_crop"])(0, chance(1))
    assert (plain["frames"][0] == 0).all() and (augmented["frames"][0] != 0).any()
    alone = StillClips(made_up_images(), (32, 40), AUGMENTATIONS["none"], frames=1)(0, chance())
    assert alone["frames"].shape == (1, 32, 40, 3) and not alone["flow"].any()


def test_the_flow_of_a_record_is_that_of_the_frames_in_it():
    picture, mask = still((120, 160))
    images = Stills([made_up_images(1)[0]._replace(picture=picture, mask=mask)])
    record = StillClips(images, SIZE, AUGMENTATIONS["flip_crop"])(0, chance(1))
    ahead = sampled(record["frames"][1].astype(np.float32), grid(SIZE) + record["flow"][0])
    off = np.abs(ahead - record["frames"][0])
    unmoved = np.abs(record["frames"][1].astype(float) - record["frames"][0])
    assert np.median(off) < 1 and np.median(unmoved) > 5 * np.median(off)


def test_a_picture_that_cannot_be_read_is_replaced_and_named():
    images = Stills([None, *made_up_images(2)])
    make = StillClips(images, (8, 10), AUGMENTATIONS["none"])
    records = [make(0, chance(seed)) for seed in range(12)]
    assert any("cut short" in record["skipped"] for record in records)
    assert {record["names"] for record in records} == {"image0", "image1"}
