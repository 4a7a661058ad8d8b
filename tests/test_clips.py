"""Clips for training: which frames they have, one augmentation for all of them, flow, images."""

from collections import Counter

import numpy as np
import pytest

from data_pipelines import sources
from data_pipelines.augment import AUGMENTATIONS
from data_pipelines.clips import ORDERS, VideoClips, anchored, consecutive, flow_of, random
from data_pipelines.video_records import VideoRecord
from jaxvos.flow.dis import dis
from jaxvos.flow.warp import warp
from tests.made_up_data import first, made_up_videos, names

CLIP = {"sample": "clip", "frames": 3, "order": "consecutive", "gap": 1, "copies": 2, "flow": ""}


def times(name: str) -> list[int]:
    """The frames in a record's name, "video/00001+00002"."""
    return [int(t) for t in name.split("/")[1].split("+")]


def chance(seed=0):
    return np.random.default_rng(seed)


def test_consecutive_frames_are_one_step_apart_and_stay_in_the_video():
    for seed in range(50):
        found = consecutive(4, 10, seed % 10, 3, chance(seed))
        steps = set(np.diff(found).tolist())
        assert len(steps) == 1 and steps <= {1, 2, 3} and 0 <= min(found) <= max(found) < 10
        if seed % 10 + 3 * max(steps) < 10:
            assert found[0] == seed % 10
    drawn = {np.diff(consecutive(4, 100, 5, 3, chance(seed)))[0] for seed in range(50)}
    assert drawn == {1, 2, 3}
    assert consecutive(4, 8, 0, 7, chance(1)) in ([0, 1, 2, 3], [0, 2, 4, 6])


def test_a_video_that_is_too_short_turns_back():
    assert consecutive(5, 3, 2, 4, chance()) == [0, 1, 2, 1, 0]
    assert consecutive(4, 1, 0, 1, chance()) == [0, 0, 0, 0]


def test_random_frames_are_distinct_and_begin_with_the_target():
    counts = Counter()
    for seed in range(300):
        found = random(3, 5, 2, 1, chance(seed))
        assert found[0] == 2 and len(set(found)) == 3
        counts.update(found[1:])
    assert set(counts) == {0, 1, 3, 4} and min(counts.values()) > 100
    assert random(4, 2, 1, 1, chance()) == [1, 0, 1, 0]
    assert random(3, 1, 0, 1, chance()) == [0, 0, 0]


def test_an_anchored_clip_is_the_first_frame_a_previous_one_and_the_current_one():
    drawn = {tuple(anchored(3, 9, 5, 2, chance(seed))) for seed in range(30)}
    assert drawn == {(0, 4, 5), (0, 3, 5)}
    assert anchored(3, 9, 0, 2, chance()) == [0, 0, 0]
    with pytest.raises(ValueError, match="has 3 frames"):
        anchored(4, 9, 5, 1, chance())


def test_every_frame_begins_a_clip_once_an_epoch():
    videos = made_up_videos()
    total = sum(videos.lengths)
    found = names(first(total, batch=1, **CLIP | {"order": "random", "frames": 2}))
    starts = Counter((name.split("/")[0], times(name)[0]) for name in found)
    assert len(starts) == total and set(starts.values()) == {1}


def test_a_clip_holds_its_frames_and_masks_in_order():
    videos = made_up_videos()
    by_name = {video.name: video for video in videos}
    for batch in first(6, batch=2, size=(12, 16), **CLIP):
        assert batch["frames"].shape == (2, 3, 12, 16, 3) and batch["frames"].dtype == np.uint8
        assert batch["masks"].shape == (2, 3, 12, 16, 1) and batch["masks"].dtype == np.float32
        for frames, masks, name in zip(
            batch["frames"], batch["masks"], batch["names"], strict=True
        ):
            video = by_name[str(name).split("/")[0]]
            for picture, mask, t in zip(frames, masks, times(str(name)), strict=True):
                np.testing.assert_array_equal(picture, video.frames[t])
                np.testing.assert_array_equal(mask[..., 0], video.masks[t] != 0)


class _Alone(tuple):
    lengths = (6,)


def test_all_frames_of_a_clip_are_augmented_alike():
    picture = chance().integers(0, 256, (40, 60, 3), np.uint8)
    video = _Alone([VideoRecord("still", [picture] * 6, [picture[..., 0]] * 6)])
    make = VideoClips(
        video,
        np.array([6]),
        (16, 24),
        AUGMENTATIONS["flip_crop"],
        False,
        frames=4,
        order="consecutive",
        gap=1,
        flow="dis",
    )
    one, two = make(0, chance(1)), make(0, chance(2))
    assert (one["frames"] == one["frames"][:1]).all() and (one["masks"] == one["masks"][:1]).all()
    assert (one["frames"] != two["frames"]).any()
    assert np.abs(one["flow"]).max() < 0.1  # between frames that are the same


def test_flow_is_from_each_frame_to_the_next():
    rng = chance()
    wide = np.kron(rng.integers(0, 256, (8, 14, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    frames = [np.ascontiguousarray(wide[:, 4 * t : 4 * t + 64]) for t in range(3)]
    flow = flow_of(frames)
    assert flow.shape == (3, 48, 64, 2) and flow.dtype == np.float32
    np.testing.assert_array_equal(flow[0], dis(frames[0], frames[1]))
    np.testing.assert_array_equal(flow[2], flow[1])
    np.testing.assert_allclose(np.median(flow[:2], (1, 2)), [[-4, 0]] * 2, atol=0.2)
    assert not flow_of(frames[:1]).any()


def test_an_image_is_a_clip_of_copies():
    image, video = first(2, batch=2, **CLIP | {"image_every": 2, "flow": "dis", "gap": 2})
    assert image["frames"].shape == (2, 2, 8, 10, 3) and image["mask"].shape == (2, 8, 10, 1)
    np.testing.assert_array_equal(image["frames"][:, 0], image["frames"][:, 1])
    assert not image["flow"].any() and image["flow"].shape == (2, 2, 8, 10, 2)
    assert image.keys() == {"frames", "mask", "flow", "names"}
    assert video.keys() == {"frames", "masks", "flow", "names"}
    assert video["flow"].shape == (2, 3, 8, 10, 2)


def test_the_videos_own_flow_is_moved_with_the_frames():
    options = CLIP | {"flow": "video", "augment": "flip_crop", "size": (48, 80), "workers": 0}
    spec = "procedural:clips=2,frames=4,height=96,width=160"
    along, still = [], []
    for batch in first(4, batch=2, videos=sources.videos(spec), **options):
        assert batch["flow"].shape == (2, 3, 48, 80, 2)
        np.testing.assert_array_equal(batch["flow"][:, 2], batch["flow"][:, 1])
        for frames, flow in zip(batch["frames"], batch["flow"], strict=True):
            along.append(np.abs(frames[0].astype(int) - warp(frames[1], flow[0])).mean())
            still.append(np.abs(frames[0].astype(int) - frames[1]).mean())
    assert np.mean(along) < 0.8 * np.mean(still)


def test_flow_that_the_videos_do_not_have_is_asked_for_in_vain():
    for changes, words in (
        ({"gap": 2}, "it needs order='consecutive', gap=1"),
        ({"order": "random"}, "not 'random', 1"),
        ({"frames": 5}, "videos of at least 5 frames, .* videos of 1"),
        ({"frames": 1}, "v0 has none: procedural video"),
    ):
        with pytest.raises(ValueError, match=words):
            first(1, batch=1, **CLIP | {"flow": "video"} | changes)
    with pytest.raises(ValueError, match=r"data\.flow is 'raft'"):
        first(1, batch=1, **CLIP | {"flow": "raft"})


def test_eye_movements_come_with_the_frames_and_masks_only_if_there_are_any():
    rng = chance()
    frames = rng.integers(0, 256, (3, 16, 20, 3), np.uint8)
    maps = rng.random((3, 16, 20)).astype(np.float32)
    points = maps > 0.9
    video = VideoRecord("looked at", frames, None, maps=maps, points=points)

    class Watched(list):
        lengths = (3,)

    options = CLIP | {"size": (16, 20)}
    (batch,) = first(1, batch=1, videos=Watched([video]), **options)
    assert batch.keys() == {"frames", "fixation_map", "fixations", "names"}
    np.testing.assert_allclose(batch["fixation_map"][0, ..., 0], maps, atol=1e-6)
    np.testing.assert_array_equal(batch["fixations"][0, ..., 0], points)
    assert batch["fixations"].dtype == np.float32
    masked = video._replace(masks=points.astype(np.uint8), points=None)
    (batch,) = first(1, batch=1, videos=Watched([masked]), **options)
    assert batch.keys() == {"frames", "masks", "fixation_map", "names"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"sample": "film"},
            "data.sample is 'film'; there are 'pair', 'clip', 'motion' and 'refinement'",
        ),
        ({"order": "backwards"}, f"There are: {', '.join(ORDERS)}"),
        ({"frames": 0}, "data.frames is 0"),
        ({"gap": 0}, "data.gap is 0"),
        ({"copies": 0}, "data.copies is 0"),
    ],
)
def test_what_no_clip_can_be_made_of_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        first(1, batch=1, **CLIP | changes)
