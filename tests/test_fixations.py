"""Folders of recorded eye movements become a data set, and those that say nothing are refused."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import fixations, sources
from data_pipelines.fixations import Fixations
from data_pipelines.video_records import VideoRecord

SIZE = (12, 16)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def made_up(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "JPEGImages":
        return rng.integers(0, 256, (*SIZE, 3), np.uint8)
    if kind == "FixationMaps":
        return rng.integers(0, 256, SIZE, np.uint8)
    rare = 0.9 if kind == "Fixations" else 0.5
    return (rng.uniform(size=SIZE) > rare).astype(np.uint8) * 255


def sequence(root: Path, name: str, count: int, kinds=("FixationMaps", "Fixations", "Annotations")):
    for kind in ("JPEGImages", *kinds):
        for t in range(count):
            ending = "jpg" if kind == "JPEGImages" else "png"
            save(root / kind / "480p" / name / f"{t:05d}.{ending}", made_up(kind, t + len(name)))


@pytest.fixture
def root(tmp_path) -> Path:
    """Two sequences, one of them with maps alone."""
    sequence(tmp_path / "eyes", "bear", 3)
    sequence(tmp_path / "eyes", "swan", 2, kinds=("FixationMaps",))
    return tmp_path / "eyes"


def prepare(root: Path) -> Fixations:
    builder = Fixations(data_dir=root.parent / "tfds", file_format="array_record")
    tfds.display_progress_bar(False)
    download = tfds.download.DownloadConfig(manual_dir=root)
    builder.download_and_prepare(download_config=download, file_format="array_record")
    return builder


def read(builder: Fixations, split: str = "train") -> list[VideoRecord]:
    videos = builder.info.metadata["videos"][split]
    return fixations.records(builder.as_data_source(split), videos)


def test_what_is_prepared_reads_as_the_files_do(root):
    bear, swan = read(prepare(root))
    assert (bear.name, len(bear.frames), swan.name, len(swan.frames)) == ("bear", 3, "swan", 2)
    for t in range(3):
        place = f"480p/bear/{t:05d}"
        grey = np.asarray(Image.open(root / "FixationMaps" / f"{place}.png"))
        assert bear.frames[t].shape == (*SIZE, 3) and bear.frames[t].dtype == np.uint8
        assert bear.maps[t].dtype == np.float32
        np.testing.assert_array_equal(bear.maps[t], grey.astype(np.float32) / 255)
        np.testing.assert_array_equal(bear.points[t], made_up("Fixations", t + 4) > 0)
        assert bear.points[t].dtype == bool
        np.testing.assert_array_equal(bear.masks[t], made_up("Annotations", t + 4))
    assert swan.points is None and swan.masks is None
    np.testing.assert_array_equal(swan.maps[1], made_up("FixationMaps", 5) / np.float32(255))


def test_lists_make_splits_and_without_them_all_is_for_training(root):
    builder = prepare(root)
    assert builder.info.metadata["videos"] == {"train": [["bear", 3], ["swan", 2]]}
    for split, name in (("train", "swan"), ("test", "bear")):
        listing = root / "ImageSets" / "2016" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(f"{name}\n")
    found = {
        split: [f.name for f in fixations.list_fixations(root, split=split)]
        for split in ("train", "test")
    }
    assert found == {"train": ["swan"], "test": ["bear"]}
    other = root.parent / "more"
    root.rename(other)
    again = Fixations(data_dir=root.parent / "tfds2", file_format="array_record")
    download = tfds.download.DownloadConfig(manual_dir=other)
    again.download_and_prepare(download_config=download, file_format="array_record")
    assert [record.name for record in read(again, "test")] == ["bear"]


def test_a_frame_without_a_map_and_half_a_sequence_of_fixations_are_named(root):
    (root / "FixationMaps/480p/swan/00001.png").unlink()
    (root / "Fixations/480p/bear/00002.png").unlink()
    with pytest.raises(ValueError) as caught:
        fixations.list_fixations(root)
    assert "1 frames have no file in FixationMaps: " in str(caught.value)
    assert "swan/00001.jpg" in str(caught.value)
    assert "1 frames have no file in Fixations: " in str(caught.value)
    assert "bear/00002.jpg" in str(caught.value)


def test_a_map_of_another_size_or_of_no_frame_is_named(root):
    path = root / "Fixations/480p/bear/00001.png"
    save(path, np.zeros((12, 17), np.uint8))
    with pytest.raises(
        ValueError, match=r"1 masks are of another size: .*bear.00001.jpg is 16 x 12"
    ):
        prepare(root)
    save(path, made_up("Fixations", 5))
    save(root / "FixationMaps/480p/bear/00009.png", made_up("FixationMaps", 5))
    with pytest.raises(ValueError, match=r"belong to no frame of .*bear: .*00009\.png"):
        prepare(root)


def test_one_empty_map_will_do_and_a_sequence_of_them_is_refused(root):
    empty = np.zeros(SIZE, np.uint8)
    save(root / "FixationMaps/480p/swan/00000.png", empty)
    assert not read(prepare(root))[1].maps[0].any()
    save(root / "FixationMaps/480p/swan/00001.png", empty)
    other = root.parent / "other"
    root.rename(other)
    with pytest.raises(ValueError, match=r"All fixation maps of 1 sequences are zero: swan\. Noth"):
        Fixations(data_dir=root.parent / "tfds3", file_format="array_record").download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=other),
            file_format="array_record",
        )


def test_a_damaged_data_set_is_noticed_when_it_is_read(root):
    builder = prepare(root)
    source = [builder.as_data_source("train")[number] for number in (1, 0, 2, 3, 4)]
    (bear, _) = fixations.records(source, builder.info.metadata["videos"]["train"])
    with pytest.raises(ValueError, match=r"is frame 1 of b?'bear' and not frame 0 of 'bear'"):
        bear.maps[0]


def test_a_folder_without_maps_is_refused(root):
    (root / "FixationMaps").rename(root / "Maps")
    with pytest.raises(FileNotFoundError, match="has no folder FixationMaps"):
        fixations.list_fixations(root)


def test_no_fixation_is_lost_when_the_picture_shrinks():
    points = np.zeros((12, 16), bool)
    points[[0, 5, 11], [15, 3, 0]] = True
    small = fixations.points_at(points, (4, 8))
    assert np.argwhere(small).tolist() == [[0, 7], [1, 1], [3, 0]]
    np.testing.assert_array_equal(fixations.points_at(points, (12, 16)), points)
    assert fixations.points_at(points, (24, 32)).sum() == 3
    assert not fixations.points_at(np.zeros((3, 4), bool), (2, 2)).any()


def test_training_chooses_among_them_by_name(root):
    prepare(root)
    found = sources.videos("fixations", data_dir=root.parent / "tfds")
    assert found.lengths == (3, 2) and found[0].points is None and found[0].masks is None
    bear = sources.videos("fixations:without=swan", data_dir=root.parent / "tfds")
    assert bear.lengths == (3,) and bear[0].name == "bear"
    np.testing.assert_array_equal(bear[0].masks[2], made_up("Annotations", 6))
    np.testing.assert_array_equal(bear[0].points[1], made_up("Fixations", 5) > 0)
    (swan,) = sources.videos("fixations:only=swan", data_dir=root.parent / "tfds")
    np.testing.assert_array_equal(swan.maps[1], made_up("FixationMaps", 5) / np.float32(255))
