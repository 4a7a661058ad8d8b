"""Finding the files of a data set laid out like DAVIS, and reading its masks."""

import numpy as np
import pytest
from PIL import Image

from jaxvos.davis_layout import list_sequences, read_labels


@pytest.fixture
def root(tmp_path):
    """Three sequences of three frames with masks, at 480p."""
    for name in ("ant", "bee", "cat"):
        for t in range(3):
            for kind, ending in (("JPEGImages", "jpg"), ("Annotations", "png")):
                path = tmp_path / kind / "480p" / name / f"{t:05d}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 3)).save(path)
    return tmp_path


def listing(root, name, *lines):
    path = root / "ImageSets" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def names(sequences):
    return [files.name for files in sequences]


def test_real_davis_is_found_through_either_kind_of_list(shared_data):
    root = shared_data / "data/davis16_dev"
    by_names = list_sequences(root)
    assert by_names == list_sequences(root, year="none, so the list of pairs")
    assert len(by_names) == 10 and sum(len(files.frames) for files in by_names) == 594
    for files in by_names:
        assert [path.stem for path in files.frames] == [path.stem for path in files.masks]
        assert all(path.is_file() for path in (*files.frames, *files.masks))


def test_a_list_says_which_sequences_and_in_which_order(root):
    assert names(list_sequences(root)) == ["ant", "bee", "cat"]
    listing(root, "480p/val.txt", "/JPEGImages/480p/cat/00000.jpg /Annotations/480p/cat/00000.png")
    assert names(list_sequences(root)) == ["cat"]
    listing(root, "2016/val.txt", "bee", "", "ant")
    assert names(list_sequences(root)) == ["bee", "ant"]
    assert names(list_sequences(root, split=None)) == ["ant", "bee", "cat"]
    assert names(list_sequences(root, names=["cat"])) == ["cat"]


def test_folders_without_a_resolution_do_as_well(root):
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "480p").rename(root / "moved")
        (root / kind).rmdir()
        (root / "moved").rename(root / kind)
    found = list_sequences(root)
    assert names(found) == ["ant", "bee", "cat"]
    assert found[0].masks[2] == root / "Annotations/ant/00002.png"


def test_a_frame_without_a_mask_has_none(root):
    (root / "Annotations/480p/ant/00001.png").unlink()
    first, second, third = list_sequences(root)[0].masks
    assert second is None and first.stem == "00000" and third.stem == "00002"


def test_frames_are_in_the_order_of_their_numbers(root):
    for t in (9, 10, 100):
        Image.new("RGB", (4, 3)).save(root / f"JPEGImages/480p/ant/{t}.jpg")
    stems = [path.stem for path in list_sequences(root)[0].frames]
    assert stems == ["00000", "00001", "00002", "9", "10", "100"]


def test_what_is_missing_or_too_many_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"no folder for dog of the given names.*ant, bee"):
        list_sequences(root, names=["dog", "ant"])
    listing(root, "480p/train.txt", "/JPEGImages/480p/ant/7.jpg /Annotations/480p/ant/00000.png")
    with pytest.raises(FileNotFoundError, match=r"missing: .*ant/7.jpg\."):
        list_sequences(root, split="train")
    with pytest.raises(
        FileNotFoundError, match=r"split 'val'.*There are: ImageSets/480p/train.txt"
    ):
        list_sequences(root)
    Image.new("L", (4, 3)).save(root / "Annotations/480p/bee/00007.png")
    with pytest.raises(ValueError, match=r"belong to no frame.*bee/00007\.png"):
        list_sequences(root, split=None)
    Image.new("RGB", (4, 3)).save(root / "JPEGImages/480p/ant/00001.png")
    with pytest.raises(ValueError, match=r"same name.*00001"):
        list_sequences(root, split=None)
    with pytest.raises(FileNotFoundError, match="no folder JPEGImages"):
        list_sequences(root / "Annotations")


LABELS = np.array([[0, 1, 2], [3, 0, 255]], np.uint8)


def save(path, values, mode="L", palette=None):
    picture = Image.fromarray(values)
    if mode == "P":
        picture = Image.frombytes("P", values.shape[::-1], values.tobytes())
        picture.putpalette(palette)
    picture.save(path)
    return path


def test_masks_are_read_as_labels_whatever_they_are_stored_as(tmp_path):
    black = [0, 0, 0] * 256  # a palette in which every label looks like background
    grey = save(tmp_path / "grey.png", LABELS)
    palette = save(tmp_path / "palette.png", LABELS, "P", black)
    bits = save(tmp_path / "bits.png", LABELS != 0)
    np.testing.assert_array_equal(read_labels(grey), LABELS)
    np.testing.assert_array_equal(read_labels(palette), LABELS)
    np.testing.assert_array_equal(read_labels(bits), LABELS != 0)


def test_a_soft_map_is_refused_and_the_cure_told(tmp_path):
    soft = save(tmp_path / "soft.png", np.arange(0, 250, 10, np.uint8)[None])
    with pytest.raises(ValueError, match=r"soft\.png.*soft map.*Threshold"):
        read_labels(soft)
    few = save(tmp_path / "few.png", np.arange(0, 220, 10, np.uint8)[None])
    assert read_labels(few).max() == 210


@pytest.mark.parametrize("values", [np.zeros((2, 3, 3), np.uint8), np.full((2, 3), 700, np.uint16)])
def test_pictures_that_are_no_labels_are_refused_by_name(tmp_path, values):
    with pytest.raises(ValueError, match=r"mask\.png holds no labels but"):
        read_labels(save(tmp_path / "mask.png", values))


def test_broken_masks_are_named(tmp_path):
    path = save(tmp_path / "mask.png", np.tile(LABELS, (50, 50)))
    whole = path.read_bytes()
    for size in (0, 20, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"mask\.png cannot be read"):
            read_labels(path)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_labels(tmp_path / "none.png")
