"""Data sets as they are shipped: which frames and masks belong together."""

import numpy as np
import pytest
from PIL import Image

from jaxvos.layouts import list_annotated


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 3), np.uint8)).save(path)


def found(root, **keywords):
    """{name: {frame: mask, relative to the root, or None}}"""
    return {
        files.name: {
            str(frame.relative_to(root)): mask and str(mask.relative_to(root))
            for frame, mask in zip(files.frames, files.masks, strict=True)
        }
        for files in list_annotated(root, **keywords)
    }


def test_fbms_as_shipped_has_sparse_masks_and_the_colour_ones_count(tmp_path):
    here = tmp_path / "Testset/camel01"
    touch(*(here / f"camel01_{t:04d}.jpg" for t in (1, 2, 20)))
    truth = here / "GroundTruth"
    touch(truth / "camel01_0001_gt.ppm", truth / "camel01_0001_gt.pgm")
    touch(truth / "camel01_0020_gt.pgm", truth / "camel01_0020_PROB_gt.ppm")
    assert found(tmp_path) == {
        "camel01": {
            "Testset/camel01/camel01_0001.jpg": "Testset/camel01/GroundTruth/camel01_0001_gt.ppm",
            "Testset/camel01/camel01_0002.jpg": None,
            "Testset/camel01/camel01_0020.jpg": "Testset/camel01/GroundTruth/camel01_0020_gt.pgm",
        }
    }


def test_fbms_as_papers_share_it_is_two_trees(tmp_path):
    tree = tmp_path / "TestSet"
    touch(tree / "JPEGImages/cars1/cars1_01.jpg", tree / "JPEGImages/cars1/cars1_02.jpg")
    touch(tree / "Annotations/cars1/cars1_01.png", tree / "JPEGImages/no_masks/a.jpg")
    assert found(tmp_path) == {
        "cars1": {
            "TestSet/JPEGImages/cars1/cars1_01.jpg": "TestSet/Annotations/cars1/cars1_01.png",
            "TestSet/JPEGImages/cars1/cars1_02.jpg": None,
        }
    }


def test_youtube_objects_keep_their_category_and_may_have_jpeg_masks(tmp_path):
    shot = tmp_path / "cat/data/0003/shots/001"
    touch(shot / "images/00001.jpg", shot / "images/00011.jpg", shot / "labels/00011.jpg")
    (files,) = list_annotated(tmp_path)
    assert files.name == "cat/0003/001"
    assert files.masks == (None, shot / "labels/00011.jpg")
    other = tmp_path / "other"
    touch(other / "JPEGImages/dog/0001/00000.jpg", other / "Annotations/dog/0001/00000.png")
    assert list(found(other)) == ["dog/0001"]


def test_davsod_is_scored_by_objects_not_instances(tmp_path):
    clip = tmp_path / "select_0043"
    folders = ("GT_instance_level", "GT_object_level", "Fixation_maps")
    touch(clip / "Imgs/0001.png", *(clip / folder / "0001.png" for folder in folders))
    assert found(tmp_path) == {
        "select_0043": {"select_0043/Imgs/0001.png": "select_0043/GT_object_level/0001.png"}
    }


def test_visal_has_its_masks_in_ground_truth(tmp_path):
    touch(tmp_path / "boat/Imgs/00001.jpg", tmp_path / "boat/Imgs/00002.jpg")
    touch(tmp_path / "boat/ground-truth/00002.png")
    (files,) = list_annotated(tmp_path)
    assert files.masks == (None, tmp_path / "boat/ground-truth/00002.png")


def test_davis_itself_is_found_too(tmp_path):
    touch(tmp_path / "JPEGImages/480p/ant/00000.jpg", tmp_path / "Annotations/480p/ant/00000.png")
    assert list(found(tmp_path)) == ["ant"]


def test_sequences_can_be_chosen_and_unknown_ones_are_named(tmp_path):
    for name in ("ant", "bee"):
        touch(tmp_path / name / "Imgs/1.jpg", tmp_path / name / "GT/1.png")
    assert list(found(tmp_path, names=["bee"])) == ["bee"]
    with pytest.raises(FileNotFoundError, match=r"no sequence cat\. It has: ant, bee"):
        list_annotated(tmp_path, names=["cat"])


def test_what_is_no_data_set_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        list_annotated(tmp_path / "none")
    touch(tmp_path / "clip/00000.jpg")
    with pytest.raises(FileNotFoundError, match="No sequence with masks was found"):
        list_annotated(tmp_path)
    touch(tmp_path / "clip/GroundTruth/00007.png")
    with pytest.raises(ValueError, match=r"belong to no frame.*00007"):
        list_annotated(tmp_path)
