"""Videos in three folders, RGB, GT and FLOW: which files belong together, flow out of pictures."""

import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from data_pipelines import sources
from data_pipelines.rgb_gt_flow import list_three_folders, videos
from data_pipelines.samples import training_batches
from jaxvos.flow.colour import flow_of_picture, picture
from jaxvos.layouts import list_annotated

SIDE = (24, 32)


def field(seed=0):
    """Smooth flow of every direction, no length twice."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE[0] * 1j, -1 : 1 : SIDE[1] * 1j]
    return np.stack([x + 0.1 * rng.uniform(), y], axis=-1).astype(np.float32)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def fill(home, name, count, flows=None):
    """A sequence's files; the frame and mask t show the number t."""
    for t in range(count):
        save(home / f"RGB/{name}_{t:05d}.png", np.full((*SIDE, 3), 10 * t))
        save(home / f"GT/{name}_{t:05d}.png", np.full(SIDE, 255 * (t % 2)))
    for t in range(count - 1 if flows is None else flows):
        save(home / f"FLOW/{name}_{t:05d}.png", picture(field(t)))


def test_folders_of_a_sequence_each_and_folders_of_all_sequences_are_read_alike(tmp_path):
    for name, count in (("bear", 3), ("bmx_trees", 2)):
        fill(tmp_path / "DAVIS_test" / name, name, count)
        fill(tmp_path / "DAVIS_train", name, count)
    for split in ("test", "train"):
        found = videos(tmp_path, split=split)
        assert found.lengths == (3, 2) and [v.name for v in found] == ["bear", "bmx_trees"]
        assert [int(f[0, 0, 0]) for f in found[0].frames] == [0, 10, 20]
        assert [int(m[0, 0]) for m in found[0].masks] == [0, 255, 0]
        assert len(found[0].flow) == 2
        np.testing.assert_array_equal(found[0].flow[1], flow_of_picture(picture(field(1))))
        assert pickle.loads(pickle.dumps(found))[1].frames[1].shape == (*SIDE, 3)
    assert len(videos(tmp_path / "DAVIS_test", split="whatever")) == 2


def test_evaluation_finds_the_sequences_of_a_split(tmp_path):
    fill(tmp_path / "bear", "bear", 2)
    (files,) = list_annotated(tmp_path)
    assert files.name == "bear" and [m.parent.name for m in files.masks] == ["GT", "GT"]
    assert [f.parent.name for f in files.frames] == ["RGB", "RGB"]


def test_flow_may_be_absent_as_a_whole_but_not_in_between(tmp_path):
    fill(tmp_path / "a", "bear", 3, flows=0)
    assert videos(tmp_path / "a")[0].flow is None
    fill(tmp_path / "b", "bear", 4, flows=1)
    with pytest.raises(FileNotFoundError, match=r"FLOW has no picture for 2 of 3.*bear_00001"):
        list_three_folders(tmp_path / "b")
    fill(tmp_path / "c", "bear", 3, flows=3)  # the last one's is not needed
    assert len(videos(tmp_path / "c")[0].flow) == 2


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder RGB, .*train/ and \*_train/"):
        list_three_folders(tmp_path)
    fill(tmp_path, "bear", 2)
    (tmp_path / "GT/bear_00001.png").unlink()
    with pytest.raises(ValueError, match=r"1 frames have no mask in .*GT: .*RGB.bear_00001"):
        list_three_folders(tmp_path)


def test_flow_of_a_picture_has_its_directions_and_is_drawn_as_it_again():
    flow = field()
    found = flow_of_picture(picture(flow))
    longest = np.linalg.norm(flow, axis=-1).max()
    np.testing.assert_allclose(found, flow / longest, atol=0.03)
    again = picture(found).astype(int)
    assert np.abs(again - picture(flow)).max() <= 3


def test_a_picture_that_is_nearly_white_shows_no_motion_at_all():
    noise = np.random.default_rng(0).integers(245, 256, (*SIDE, 3)).astype(np.uint8)
    assert not flow_of_picture(noise).any()
    noise[3, 4] = (255, 0, 0)
    moving = np.linalg.norm(flow_of_picture(noise), axis=-1)
    assert moving[3, 4] == 1 and np.delete(moving.ravel(), 3 * SIDE[1] + 4).max() < 0.05


def test_clips_with_this_flow_can_be_trained_on(tmp_path):
    fill(tmp_path, "bear", 4)
    data = ConfigDict(
        {
            "videos": "",
            "image_every": 0,
            "size": SIDE,
            "augment": "none",
            "stretch": False,
            "workers": 0,
            "threads": 1,
            "sample": "clip",
            "frames": 3,
            "order": "consecutive",
            "gap": 1,
            "copies": 1,
            "flow": "video",
        }
    )
    with_flow = training_batches(data, batch=1, seed=0, videos=videos(tmp_path))
    batch = next(with_flow)
    with_flow.close()
    t = int(batch["names"][0].split("/")[1].split("+")[0])
    np.testing.assert_allclose(
        batch["flow"][0, 0], flow_of_picture(picture(field(t))), rtol=1e-5, atol=1e-6
    )


def test_flow_is_of_all_sequences_or_of_none(tmp_path):
    fill(tmp_path / "bear", "bear", 3)
    fill(tmp_path / "one", "one", 1)  # nothing moves to a next frame
    assert [v.flow is None for v in videos(tmp_path)] == [False, True]
    fill(tmp_path / "swan", "swan", 3, flows=0)
    with pytest.raises(FileNotFoundError, match=r"1 of 3 sequences have no FLOW, .*: swan"):
        videos(tmp_path)


def test_folders_of_splits_are_never_taken_for_sequences(tmp_path):
    fill(tmp_path / "DAVIS_train", "bear", 2)
    fill(tmp_path / "DAVIS_val", "swan", 2)
    fill(tmp_path / "YTO_test/train", "train", 2)  # a sequence of this name
    names = {
        split: [files.name for files in list_three_folders(tmp_path, split=split)]
        for split in ("train", "val", "test")
    }
    assert names == {"train": ["bear"], "val": ["swan"], "test": ["train"]}
    assert list_three_folders(tmp_path / "YTO_test")[0].name == "train"
    with pytest.raises(FileNotFoundError, match="holds no folder RGB"):
        list_three_folders(tmp_path, split="other")


def test_training_names_them_by_a_text_and_frames_without_flow_claim_none(tmp_path):
    fill(tmp_path / "DAVIS_train", "bear", 3)
    fill(tmp_path / "DAVIS_val", "swan", 2, flows=0)
    found, plain = (sources.videos(f"three_folders:{tmp_path}{o}") for o in ("", ":split=val"))
    assert [v.name for v in found] == ["bear"] and found.lengths == (3,)
    np.testing.assert_array_equal(found[0].flow[1], flow_of_picture(picture(field(1))))
    assert [v.name for v in plain] == ["swan"] and plain[0].flow is None
    assert sources.videos(f"three_folders:{tmp_path}", split="val")[0].name == "swan"
    both = sources.videos(f"three_folders:{tmp_path}+three_folders:{tmp_path}:split=val")
    assert both.lengths == (3, 2) and int(both[1].frames[1][0, 0, 0]) == 10
    with pytest.raises(ValueError, match="has no option 'flow'"):
        sources.videos(f"three_folders:{tmp_path}:flow=elsewhere")
