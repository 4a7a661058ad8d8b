"""The training pipeline: what comes in which order, by how many workers, past corrupt files."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from data_pipelines import augment
from tests.made_up_data import (
    LENGTHS,
    Frames,
    Video,
    Videos,
    assert_equal,
    first,
    made_up_images,
    made_up_videos,
    names,
    start,
    take,
)


def test_a_video_batch_holds_pictures_of_the_frames_it_names():
    (batch,) = first(1, size=(12, 16))
    assert set(batch) == {"target", "reference", "target_mask", "reference_mask", "names"}
    for i, name in enumerate(batch["names"]):
        video, frames = str(name).split("/")
        target, reference = map(int, frames.split("+"))
        for kind, frame in (("target", target), ("reference", reference)):
            picture = Frames(int(video[1:]), 100)[frame]
            mask = Frames(int(video[1:]), 100, masks=True)[frame]
            np.testing.assert_array_equal(batch[kind][i], picture, strict=True)
            expected = (mask[..., None] > 0).astype(np.float32)
            np.testing.assert_array_equal(batch[f"{kind}_mask"][i], expected, strict=True)


def test_every_frame_is_a_target_once_before_any_is_again():
    steps = sum(LENGTHS) // 4
    targets = [name.split("+")[0] for name in names(first(2 * steps))]
    everything = [f"v{v}/{t:05d}" for v, length in enumerate(LENGTHS) for t in range(length)]
    assert sorted(targets[: 4 * steps]) == everything
    assert sorted(targets[4 * steps :]) == everything
    assert targets[: 4 * steps] != targets[4 * steps :]
    assert targets[: 4 * steps] != everything


def test_the_reference_is_drawn_again_once_when_it_is_the_target():
    videos = made_up_videos((3,) * 50)
    pairs = [name.split("/")[1].split("+") for name in names(first(300, videos=videos))]
    # 1/3 without the second draw, 0 if it were drawn until it differs; 4 standard errors are 0.036.
    assert np.mean([target == reference for target, reference in pairs]) == pytest.approx(
        1 / 9, abs=0.036
    )


def test_the_only_frame_of_a_video_is_its_own_reference():
    assert set(names(first(2, videos=made_up_videos((1,))))) == {"v0/00000+00000"}


def test_every_third_step_of_each_epoch_trains_on_images():
    batches = first(10, image_every=3, steps_per_epoch=4)
    assert "".join("I" if "mask" in batch else "V" for batch in batches) == "IVVIIVVIIV"
    for batch in batches:
        if "mask" in batch:
            assert set(batch) == {"target", "reference", "mask", "names"}
            np.testing.assert_array_equal(batch["target"], batch["reference"], strict=True)


def test_an_epoch_has_as_many_steps_as_it_takes_to_see_every_frame():
    batches = start(batch=6)
    assert batches.steps_per_epoch == 3  # 16 frames
    batches.close()


def test_an_image_batch_holds_the_images_it_names():
    drawn = set()
    for batch in first(40, image_every=1, size=(9, 11)):
        for name, picture, mask in zip(batch["names"], batch["target"], batch["mask"], strict=True):
            number = int(str(name).removeprefix("image"))
            assert (picture == 10 * number).all()
            assert (mask == (number > 0)).all()
            drawn.add(number)
    assert drawn == set(range(6))


def test_image_steps_skip_no_frame():
    batches = first(8, image_every=2, steps_per_epoch=8)
    targets = [name.split("+")[0] for name in names(b for b in batches if "mask" not in b)]
    assert len(targets) == len(set(targets)) == sum(LENGTHS)


def test_two_processes_share_out_the_records_of_one():
    options = {"augment": "cosnet", "image_every": 3, "stretch": True}
    whole = first(5, **options)
    halves = [first(5, process=(index, 2), **options) for index in range(2)]
    for step, batch in enumerate(whole):
        for key in batch:
            for index in range(2):
                np.testing.assert_array_equal(batch[key][index::2], halves[index][step][key])


def test_the_seed_decides_the_stream():
    some, again, other = (first(2, seed=seed, augment="flip_crop") for seed in (5, 5, 6))
    assert_equal(some, again)
    assert names(some) != names(other)


def test_each_frame_of_a_pair_is_augmented_by_draws_of_its_own():
    batches = first(8, videos=made_up_videos((1,)), augment="flip_crop")
    target, reference = (np.concatenate([b[k] for b in batches]) for k in ("target", "reference"))
    assert all((a != b).any() for a, b in zip(target, reference, strict=True))
    assert len({picture.tobytes() for picture in target}) == len(target)


def test_frames_are_stretched_and_images_are_not():
    class Grey(Frames):
        def __getitem__(self, index):
            ramp = np.linspace(100, 150, 12 * 16).reshape(12, 16).astype(np.uint8)
            return ramp if self.masks else np.repeat(ramp[..., None], 3, axis=-1)

    videos = Videos([Video("grey", Grey(0, 3), Grey(0, 3, masks=True))])
    options = {"videos": videos, "image_every": 2, "steps_per_epoch": 2, "size": (12, 16)}
    image, frame = first(2, stretch=True, **options)
    assert (frame["target"].min(), frame["target"].max()) == (0, 255)
    assert image["target"].max() == max(10 * int(str(name)[5:]) for name in image["names"])
    _, plain = first(2, stretch=False, **options)
    assert (plain["target"].min(), plain["target"].max()) == (100, 150)


def test_reading_ahead_is_bounded():
    videos = made_up_videos()
    batches = start(batch=2, videos=videos)
    next(batches)
    time.sleep(0.2)
    assert sum(len(video.frames.read) for video in videos) <= 2 * (2 + 2 + 1)
    batches.close()


def test_the_time_spent_waiting_is_counted():
    class Slow(Frames):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    videos = Videos([Video("slow", Slow(0, 3), Frames(0, 3, masks=True))])
    batches = start(videos=videos, threads=0)
    next(batches)
    assert 4 * 2 * 0.02 <= batches.waited_s < 5
    batches.close()


CORRUPT = {"augment": "cosnet", "image_every": 3, "batch": 6}


@pytest.fixture(scope="module")
def by_two_workers(tmp_path_factory):
    """Nine batches read by two workers, v3/00002 corrupt; and a checkpoint after the fourth."""
    folder = tmp_path_factory.mktemp("checkpoint")
    batches = start(videos=made_up_videos(corrupt=[(3, 2)]), workers=2, **CORRUPT)
    taken = take(batches, 4)
    with ocp.CheckpointManager(folder) as manager:
        manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches)))
    taken += take(batches, 5)
    skipped = dict(batches.skipped)
    batches.close()
    return taken, skipped, folder


def test_workers_change_nothing(by_two_workers):
    taken, skipped, _ = by_two_workers
    batches = start(videos=made_up_videos(corrupt=[(3, 2)]), **CORRUPT)
    assert_equal(taken, take(batches, 9))
    batches.close()
    assert skipped == batches.skipped == {"v3/00002": "OSError: 00002.jpg is truncated"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restored_pipeline_goes_on_exactly_where_it_was_saved(by_two_workers, workers):
    taken, _, folder = by_two_workers
    batches = start(videos=made_up_videos(corrupt=[(3, 2)]), workers=workers, **CORRUPT)
    take(batches, 1)
    with ocp.CheckpointManager(folder) as manager:
        restore = ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(batches))
        manager.restore(4, args=restore)
    assert_equal(taken[4:], take(batches, 5))
    batches.close()


def test_a_closed_pipeline_says_so():
    batches = start()
    next(batches)
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_a_corrupt_record_is_replaced_and_named_once_and_the_others_stay(caplog):
    videos = made_up_videos(corrupt=[(0, 1)], corrupt_masks=[(0, 1)])
    with caplog.at_level(logging.WARNING):
        batches = start(videos=videos, augment="flip_crop")
        taken = take(batches, 20)
        batches.close()
    assert [r.getMessage() for r in caplog.records if r.name == "data_pipelines.samples"] == [
        "Corrupt record 1, replaced: v0/00001 (OSError: 00001.jpg is truncated)"
    ]
    replaced = 0
    for healthy, batch in zip(first(20, augment="flip_crop"), taken, strict=True):
        for i, name in enumerate(healthy["names"]):
            if str(name).startswith("v0") and "00001" in str(name):
                assert not ("v0" in batch["names"][i] and "00001" in batch["names"][i])
                replaced += 1
            else:
                for key in batch:
                    np.testing.assert_array_equal(batch[key][i], healthy[key][i])
    assert replaced > 0


def test_a_mask_of_another_size_is_a_corrupt_record():
    class Small(Frames):
        def __getitem__(self, index):
            return super().__getitem__(index)[:6] if index == 0 else super().__getitem__(index)

    videos = Videos([Video("v", Frames(0, 9), Small(0, 9, masks=True))])
    batches = start(videos=videos)
    take(batches, 3)
    batches.close()
    assert batches.skipped == {
        "v/00000": "ValueError: a mask (6, 16) does not fit a picture (12, 16, 3)"
    }


def test_a_corrupt_image_is_replaced():
    class Images(list):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("image3.png is empty")
            return super().__getitem__(index)

    batches = start(images=Images(made_up_images()), image_every=1)
    assert "image3" not in names(take(batches, 10))
    batches.close()
    assert batches.skipped == {"image 00003": "OSError: image3.png is empty"}


def test_more_corrupt_records_than_one_in_a_hundred_stop_the_run():
    bad = [(0, t) for t in range(3)]

    def run(frames):
        batches = start(videos=made_up_videos((frames,), corrupt=bad))
        try:
            take(batches, 200)
        finally:
            batches.close()
        return batches.skipped

    assert len(run(300)) == 3
    with pytest.raises(ValueError, match=r"3 of 299 records are corrupt, more than 1%") as error:
        run(299)
    for t in range(3):
        assert f"- v0/{t:05d}: OSError: {t:05d}.jpg is truncated" in str(error.value)


def test_data_of_which_nothing_can_be_read_stops_the_run_at_once():
    bad = [(v, t) for v, length in enumerate(LENGTHS) for t in range(length)]
    with pytest.raises(ValueError, match="10 records in a row cannot be read") as error:
        first(1, videos=made_up_videos(corrupt=bad))
    assert ".jpg is truncated" in str(error.value)


def test_a_fault_in_the_augmentation_is_not_taken_for_a_corrupt_record(monkeypatch):
    def faulty(picture, mask, rng):
        raise RuntimeError("a fault of ours")

    monkeypatch.setitem(augment.AUGMENTATIONS, "faulty", faulty)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        first(1, augment="faulty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "flipcrop"}, "No augmentation is called 'flipcrop'. There are: none, cosnet"),
        ({"batch": 5, "process": (0, 2)}, "A batch of 5 cannot be shared by 2 processes"),
        ({"image_every": 3, "images": []}, "set data.image_every to 0"),
        ({"videos": Videos()}, "no frame to train on in 'made up'"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        start(**options)


SCRIPT = """
from tests import made_up_data

if __name__ == "__main__":
    batches = made_up_data.start(workers=2)
    made_up_data.take(batches, 2)
    print("running", flush=True)
    while True:
        next(batches)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    ) as parent:
        try:
            assert parent.stdout.readline() == b"running\n"
            parent.kill()
            # The workers hold the pipes too: they end with the last of them.
            parent.communicate(timeout=6)
        finally:
            # Whatever is left of the group, so that a failure leaves nothing behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
