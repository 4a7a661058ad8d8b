"""Clips of motion against the scene: kept whole in files, read back, mirrored, turned in time."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import cv2
import numpy as np
import pytest

from data_pipelines import motion_clips, sources
from data_pipelines.kept_videos import folder_of, kept
from data_pipelines.motion_clips import (
    MotionClips,
    cached,
    mirrored,
    moving,
    shares,
)
from data_pipelines.samples import training_batches
from jaxvos.flow.aligned import aligned, channels, neighbour
from jaxvos.recipe import read_recipe

SPEC = "procedural:clips=2,frames=6,height=64,width=96"
SIZE = (64, 96)


@pytest.fixture(scope="module")
def videos():
    return sources.videos(SPEC)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return kept(tmp_path_factory.mktemp("cache"), SPEC, SIZE)


def clips(videos, places, frames=3):
    return MotionClips(videos, np.cumsum(videos.lengths), SIZE, frames, 1, places)


def test_motion_is_that_of_each_frame_towards_its_neighbours(videos):
    video, found = videos[0], moving(videos[0], SIZE)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video.frames]
    for t, which, other in ((1, 0, 0), (1, 1, 2), (1, 3, 3), (0, 0, 1), (5, 3, 3)):
        assert neighbour(t, (-1, 1, -2, 2)[which], 6) == other
        expected = aligned(greys[t], greys[other])
        stored = found.motion(t, which)
        np.testing.assert_allclose(stored.residual, expected.residual, atol=0.5 / 64 + 1e-6)
        np.testing.assert_array_equal(stored.homography, expected.homography)


def test_a_video_is_computed_once_and_read_back_as_it_was(videos, places, monkeypatch):
    fresh = moving(videos[1], SIZE)
    first = cached(videos, 1, SIZE, places.path(1))
    monkeypatch.setattr(motion_clips, "moving", lambda *_: pytest.fail("computed again"))
    again = cached(videos, 1, SIZE, places.path(1))
    for found in (first, again):
        np.testing.assert_array_equal(found.residual, fresh.residual)
        np.testing.assert_array_equal(found.homography, fresh.homography)
        np.testing.assert_array_equal(found.masks, fresh.masks)
        np.testing.assert_array_equal(found.picture(2), fresh.picture(2))
        expected = np.stack([mask != 0 for mask in videos[1].masks])
        np.testing.assert_array_equal(found.masks, expected)
        error = np.abs(found.picture(2).astype(int) - videos[1].frames[2])
        assert error.mean() < 8


def test_a_file_is_there_whole_or_not_at_all(videos, tmp_path, monkeypatch):
    def dies(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", dies)
    with pytest.raises(OSError, match="disk full"):
        cached(videos, 0, SIZE, tmp_path / "0.npz")
    assert os.listdir(tmp_path) == []


def test_files_of_another_size_are_refused(videos, places):
    cached(videos, 0, SIZE, places.path(0))
    with pytest.raises(ValueError, match=r"\(64, 96\), not \(32, 48\)"):
        cached(videos, 0, (32, 48), places.path(0))


def test_the_folder_is_the_sources_whatever_the_number_of_clips(tmp_path):
    names = {
        folder_of(tmp_path, f"procedural:clips={n},frames={t},seed={seed}", size).name
        for n, t, seed, size in (
            *((2, 7, 1, SIZE), (900, 7, 1, SIZE)),
            *((2, 8, 1, SIZE), (2, 7, 2, SIZE), (2, 7, 1, (64, 64))),
        )
    }
    assert len(names) == 4


def test_joined_sources_keep_their_own_folders(tmp_path):
    one, other = "procedural:clips=2,frames=3", "procedural:seed=4,clips=3,frames=3"
    places = kept(tmp_path, f"{one}+{other}", SIZE)
    alone = [kept(tmp_path, spec, SIZE) for spec in (one, other)]
    assert places.ends == (2, 5)
    expected = [alone[0].path(0), alone[0].path(1), *map(alone[1].path, range(3))]
    assert [places.path(n) for n in range(5)] == expected
    assert len(set(expected)) == 5


def test_a_record_is_the_channels_of_its_frames(videos, places):
    of_video, seen = moving(videos[0], SIZE), set()
    for seed in range(24):
        record = clips(videos, places)(1, np.random.default_rng(seed))
        motion, masks = record["motion"].astype(np.float32), record["masks"]
        assert motion.shape == (3, 32, 48, 20) and masks.shape == (3, 32, 48, 1)
        times = [int(t) for t in record["names"].split("/")[1].split("+")]
        assert sorted(times) == [1, 2, 3]
        back = times[0] == 3
        flat = np.stack([shares(of_video.masks[t]) / 255 for t in times])[..., None]
        mirror = not np.allclose(masks, flat, atol=1e-3)
        if mirror:
            motion, masks = mirrored(motion), masks[:, :, ::-1]
        np.testing.assert_allclose(masks, flat, atol=1e-3)
        # Which stored motion each quarter of the channels is.
        order = []
        for i in range(4):
            own = motion[..., 5 * i : 5 * i + 5]
            near = [
                np.abs(own - np.stack([channels(of_video.motion(t, k)) for t in times])).max()
                for k in range(4)
            ]
            assert min(near) < 5e-3
            order.append(int(np.argmin(near)))
        whole = [1, 0, 3, 2] if back else [0, 1, 2, 3]
        lost = [i for i in range(4) if order[i] != whole[i]]
        assert len(lost) <= 1 and all(order[i] == whole[i ^ 1] for i in lost)
        seen.add((back, mirror, bool(lost)))
    assert len(seen) > 4


def test_a_mirror_turns_x_and_not_y():
    motion = np.random.default_rng(0).standard_normal((2, 3, 4, 20)).astype(np.float32)
    turned = mirrored(motion)
    for i in range(20):
        sign = -1 if i % 5 in (0, 3) else 1
        np.testing.assert_array_equal(turned[..., i], sign * motion[:, :, ::-1, i])


def test_batches_come_from_the_recipes_text(tmp_path):
    config = read_recipe("configs/mover.py:smoke")
    config.data.cache = str(tmp_path)
    batches = training_batches(config.data, batch=2, seed=0)
    batch = next(batches)
    batches.close()
    assert batch["motion"].shape == (2, 2, 32, 32, 20) and batch["motion"].dtype == np.float16
    assert batch["masks"].dtype == np.float32 and batch["masks"].min() >= 0
    assert batch["masks"].max() <= 1


def test_filling_goes_on_where_it_stopped(tmp_path, monkeypatch):
    spec = "procedural:clips=2,frames=2,height=64,width=64"
    folder = folder_of(tmp_path, spec, (64, 64))
    cached(sources.videos(spec), 0, (64, 64), folder / "000000.npz")
    before = (folder / "000000.npz").stat().st_mtime_ns
    assert motion_clips.fill(spec, tmp_path, (64, 64), 1).folders == (folder,)
    assert sorted(os.listdir(folder)) == ["000000.npz", "000001.npz"]
    assert (folder / "000000.npz").stat().st_mtime_ns == before


def test_threads_at_the_same_video_do_not_get_in_each_others_way(videos, tmp_path):
    fresh = moving(videos[0], SIZE)
    together = Barrier(4)

    def at_once(_):
        together.wait()
        motion_clips._write(tmp_path / "0.npz", fresh)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            list(pool.map(at_once, range(4)))
    assert os.listdir(tmp_path) == ["0.npz"]
