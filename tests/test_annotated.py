"""YouTube-VOS, FBMS and YouTube-Objects: folders as the archives unpack become data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import annotated, builders, sources
from data_pipelines.video_records import Videos
from jaxvos.metrics.reading import read_truth
from jaxvos.programs.prepare import prepare

SIZE = (12, 16)
PALETTE = [0, 0, 0, 200, 30, 60, 10, 250, 90]


def picture(path: Path, seed: int, size=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)


def labels(seed: int) -> np.ndarray:
    """[H, W] uint8: objects 1 and 2 in places that tell which mask it is."""
    mask = np.zeros(SIZE, np.uint8)
    mask[1:4, seed % 7 : seed % 7 + 4] = 1
    mask[6:9, seed % 5 : seed % 5 + 6] = 2
    return mask


def save(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(PALETTE)
    image.save(path)


def vos_video(home: Path, name: str, frames, masks) -> None:
    for t in frames:
        picture(home / "JPEGImages" / name / f"{t:05d}.jpg", t)
    for t in masks:
        save(home / "Annotations" / name / f"{t:05d}.png", labels(t), palette=True)


def vos_list(home: Path, videos: dict) -> None:
    made = {
        name: {"objects": {"1": {"category": "ape", "frames": [f"{t:05d}" for t in frames]}}}
        for name, frames in videos.items()
    }
    (home / "meta.json").write_text(json.dumps({"videos": made}))


@pytest.fixture
def vos(tmp_path) -> Path:
    """Two videos, one of them with a frame that has no mask."""
    home = tmp_path / "youtube-vos" / "train"
    vos_video(home, "0043f083b5", (0, 5, 10), (0, 5, 10))
    vos_video(home, "0044fa5fba", (20, 25, 30), (20, 30))
    vos_list(home, {"0043f083b5": (0, 5, 10), "0044fa5fba": (20, 30)})
    return home.parent


@pytest.fixture
def fbms(tmp_path) -> Path:
    """A sequence in each set: masks of two frames in three, in colour, or grey."""
    root = tmp_path / "FBMS"
    for part, name, ending in (("Trainingset", "bear01", "ppm"), ("Testset", "camel01", "pgm")):
        here = root / part / name
        for t in (1, 2, 20):
            picture(here / f"{name}_{t:04d}.jpg", t)
        for t in (1, 20):
            grey = 90 * labels(t)
            colour = np.where(grey[..., None] == 0, 255, np.stack([grey, grey // 2, grey], -1))
            mask = here / "GroundTruth" / f"{name}_{t:04d}_gt.{ending}"
            save(mask, colour.astype(np.uint8) if ending == "ppm" else grey)
    return root


@pytest.fixture
def objects(tmp_path) -> Path:
    """Two shots of two categories, with JPEG masks of every tenth frame."""
    root = tmp_path / "youtube-objects"
    for category, shot in (("boat", "0001/shots/009"), ("cat", "0003/shots/001")):
        here = root / category / "data" / shot
        for t in (1, 2, 11):
            picture(here / "images" / f"frame{t:04d}.jpg", t)
        for t in (1, 11):
            save(
                here / "labels" / f"frame{t:04d}.jpg", np.where(labels(t) > 0, 255, 0).astype("u1")
            )
    return root


@pytest.fixture
def complete(monkeypatch):
    """As if the official data sets were as large as the made-up ones."""
    counts = {
        "youtube_vos": {"train": 2},
        "fbms": {"train": 1, "test": 1},
        "youtube_objects": {"train": 2},
    }
    monkeypatch.setattr(annotated, "COUNTS", counts)


def prepared(name: str, root: Path, **options) -> None:
    prepare(name, root, data_dir=root.parent / "tfds", progress=False, **options)


def videos(name: str, root: Path, **options) -> Videos:
    return sources.videos(name, data_dir=root.parent / "tfds", **options)


def records(name: str, root: Path, split: str = "train") -> list:
    return list(builders.prepared(name, split, root.parent / "tfds")[0])


def names(name: str, root: Path, split: str = "train") -> list[tuple[str, int, str]]:
    return [
        (bytes(r["video"]).decode(), int(r["frame"]), bytes(r["name"]).decode())
        for r in records(name, root, split)
    ]


def same_picture(found: np.ndarray, path: Path) -> bool:
    with Image.open(path) as image:
        theirs = np.asarray(image.convert("RGB")).astype(int)
    return np.abs(found - theirs).max() <= 4  # two decoders


def test_youtube_vos_is_its_annotated_frames_with_numbered_objects(vos, complete, capsys):
    prepared("youtube_vos", vos)
    assert "train: 2 videos, 5 frames" in capsys.readouterr().out
    found = videos("youtube_vos", vos)
    assert [v.name for v in found] == ["0043f083b5", "0044fa5fba"] and found.lengths == (3, 2)
    for t, number in enumerate((20, 30)):
        np.testing.assert_array_equal(found[1].masks[t], labels(number))
        frame = vos / f"train/JPEGImages/0044fa5fba/{number:05d}.jpg"
        assert same_picture(found[1].frames[t], frame)
    assert names("youtube_vos", vos)[3:] == [
        ("0044fa5fba", 0, "00020"),
        ("0044fa5fba", 1, "00030"),
    ]
    stored = bytes(records("youtube_vos", vos)[4]["mask"])
    assert stored == (vos / "train/Annotations/0044fa5fba/00030.png").read_bytes()
    (left,) = videos("youtube_vos:without=0043f083b5", vos)
    np.testing.assert_array_equal(left.masks[1], labels(30))


@pytest.mark.parametrize("where", ["train", "train_all_frames", "."])
def test_youtube_vos_is_found_with_all_frames_and_without_its_list(tmp_path, where):
    home = tmp_path / where
    vos_video(home, "b", range(0, 11), (0, 5, 10))
    vos_video(home, "a", range(0, 6), (5,))
    found = annotated.list_youtube_vos(tmp_path)
    assert [files.name for files in found] == ["a", "b"]
    kept = [[path.stem for path in annotated._annotated(files).frames] for files in found]
    assert kept == [["00005"], ["00000", "00005", "00010"]]


def test_what_youtube_vos_lists_and_has_not_is_named(vos, complete):
    home = vos / "train"
    vos_video(home, "unlisted", (0,), (0,))
    assert len(annotated.list_youtube_vos(vos)) == 2
    (home / "Annotations/0043f083b5/00005.png").unlink()
    with pytest.raises(ValueError, match=r"1 frames that .*meta\.json lists .*0043f083b5/00005\."):
        prepared("youtube_vos", vos)
    vos_list(home, {"0044fa5fba": (20,), "gone": (0,)})
    with pytest.raises(FileNotFoundError, match="no folder for gone"):
        prepared("youtube_vos", vos)
    found = annotated.list_youtube_vos(vos, partial=True)
    assert [files.name for files in found] == ["0044fa5fba"]
    for text in ("{", '{"videos": {"a": {}}}', '{"videos": {"a": {"objects": [1]}}}', "[]"):
        (home / "meta.json").write_text(text)
        with pytest.raises(ValueError, match=r"meta\.json is no list of videos"):
            prepared("youtube_vos", vos)
    with pytest.raises(FileNotFoundError, match=r"has no train/JPEGImages with train/Annotations"):
        prepared("youtube_vos", home / "JPEGImages")
    assert not list((vos.parent / "tfds").glob("youtube_vos/*"))


def test_fbms_has_two_splits_of_merged_objects(fbms, complete, capsys):
    prepared("fbms", fbms)
    said = capsys.readouterr().out
    assert "train: 1 videos, 2 frames" in said and "test: 1 videos, 2 frames" in said
    for split, name in (("train", "bear01"), ("test", "camel01")):
        (video,) = videos("fbms", fbms, split=split)
        assert video.name == name and len(video.frames) == 2
        for t, number in enumerate((1, 20)):
            np.testing.assert_array_equal(video.masks[t], 255 * (labels(number) > 0))
        here = fbms / ("Trainingset" if split == "train" else "Testset") / name
        assert same_picture(video.frames[1], here / f"{name}_0020.jpg")
        assert names("fbms", fbms, split) == [(name, 0, f"{name}_0001"), (name, 1, f"{name}_0020")]


def test_fbms_as_papers_share_it_keeps_the_bytes_of_its_masks(tmp_path, complete, monkeypatch):
    monkeypatch.setattr(annotated, "COUNTS", {"fbms": {"train": 0, "test": 2}})
    root = tmp_path / "FBMS" / "TestSet"
    for name in ("dogs01", "cars1"):
        for t in (1, 2):
            picture(root / f"JPEGImages/{name}/{t:03d}.jpg", t)
        save(root / f"Annotations/{name}/002.png", labels(2))
    with pytest.raises(FileNotFoundError, match="has no folder Trainingset"):
        prepared("fbms", root.parent)
    prepared("fbms", root.parent, partial=True)
    found = videos("fbms", root.parent, split="test")
    assert [v.name for v in found] == ["cars1", "dogs01"] and found.lengths == (1, 1)
    np.testing.assert_array_equal(found[0].masks[0], labels(2))
    stored = bytes(records("fbms", root.parent, "test")[1]["mask"])
    assert stored == (root / "Annotations/dogs01/002.png").read_bytes()


def test_youtube_objects_are_all_for_training_and_read_as_they_are_scored(objects, complete):
    prepared("youtube_objects", objects)
    found = videos("youtube_objects", objects)
    assert [v.name for v in found] == ["boat/0001/009", "cat/0003/001"]
    assert found.lengths == (2, 2)
    for t, number in enumerate((1, 11)):
        truth = read_truth(objects / f"cat/data/0003/shots/001/labels/frame{number:04d}.jpg")
        np.testing.assert_array_equal(found[1].masks[t], 255 * truth)
        assert truth.any() and not truth.all()
    assert names("youtube_objects", objects)[2] == ("cat/0003/001", 0, "frame0001")
    with pytest.raises(ValueError, match=r"no split 'val'\. It has: train"):
        videos("youtube_objects", objects, split="val")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("youtube_vos", "Found 2 videos of the train split of youtube_vos, .* has 3471"),
        ("fbms", "Found 1 videos of the train split of fbms, .* has 29"),
        ("youtube_objects", "Found 2 videos of the train split of youtube_objects, .* has 126"),
    ],
)
def test_too_few_videos_are_refused_unless_that_will_do(name, words, request, capsys):
    root = request.getfixturevalue(
        {"youtube_vos": "vos", "youtube_objects": "objects"}.get(name, name)
    )
    with pytest.raises(ValueError, match=words):
        prepared(name, root)
    prepared(name, root, partial=True)
    assert "partial: not compared" in capsys.readouterr().out
    assert len(videos(name, root)) in (1, 2)


@pytest.mark.parametrize(
    ("name", "mask", "broken"),
    [
        ("vos", "train/Annotations/0043f083b5/00005.png", r"1 files are no pictures: .*00005\.png"),
        ("fbms", "Testset/camel01/GroundTruth/camel01_0020_gt.pgm", r"1 files are no pictures: "),
        ("objects", "cat/data/0003/shots/001/labels/frame0011.jpg", r"1 files are no pictures: "),
    ],
)
def test_bad_masks_are_refused_before_anything_is_written(name, mask, broken, request, complete):
    root = request.getfixturevalue(name)
    data_set = {"vos": "youtube_vos", "objects": "youtube_objects"}.get(name, name)
    whole = (root / mask).read_bytes()
    (root / mask).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=broken):
        prepared(data_set, root)
    save(root / mask, np.zeros((12, 17), np.uint8))
    with pytest.raises(ValueError, match=r"1 masks are of another size: .* is 16 x 12, .* 17 x 12"):
        prepared(data_set, root)
    if name != "vos":  # its masks are too many to read them all
        (root / mask).write_bytes(whole[:-20])
        with pytest.raises(ValueError, match=r"1 masks cannot be used: .*cannot be read"):
            prepared(data_set, root)
    for other in (root / mask).parent.iterdir():
        other.unlink()
    with pytest.raises(ValueError, match=r"1 videos have no mask at all: |lists have no mask"):
        prepared(data_set, root)
    assert not list((root.parent / "tfds").glob(f"{data_set}/*"))


def test_a_colour_picture_in_place_of_a_mask_is_refused(fbms, complete):
    truth = fbms / "Trainingset/bear01/GroundTruth"
    (truth / "bear01_0020_gt.ppm").unlink()
    picture(truth / "bear01_0020_gt.png", 3)
    with pytest.raises(ValueError, match=r"1 masks cannot be used: .*_gt\.png is a picture in col"):
        prepared("fbms", fbms)
    (truth / "bear01_0020_gt.png").unlink()
    save(truth / "bear01_0020_gt.ppm", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match=r"1 masks cannot be used: .*has no white pixel"):
        prepared("fbms", fbms)
