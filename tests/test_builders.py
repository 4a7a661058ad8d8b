"""Preparing data sets: complete ones are written and read back, others are refused with reasons."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines import builders, davis, encoded, pairs, sources
from data_pipelines.procedural import SALIENT, clip
from data_pipelines.procedural_builder import (
    FLOW_STEP,
    Procedural,
    ProceduralConfig,
    decode_flow,
    encode_flow,
)
from jaxvos.programs.prepare import prepare

PALETTE = [0, 0, 0, 200, 30, 60, 10, 250, 90]


def save(path: Path, seed: int, size=(16, 24)) -> None:
    """A JPEG picture of random colours, or a palette PNG mask with objects 1 and 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if path.suffix == ".jpg":
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path, quality=95)
    else:
        labels = np.zeros(size, np.uint8)
        labels[2:6, seed % 9 :] = 1
        labels[8:12, seed % 7 : 20] = 2
        image = Image.fromarray(labels)
        image.putpalette(PALETTE)
        image.save(path)


@pytest.fixture
def download(tmp_path) -> Path:
    """What one has after downloading DAVIS: three short sequences in two lists."""
    root = tmp_path / "DAVIS"
    for name, count in (("bear", 3), ("swan", 2), ("libby", 2)):
        for t in range(count):
            save(root / "JPEGImages/480p" / name / f"{t:05d}.jpg", t + len(name))
            save(root / "Annotations/480p" / name / f"{t:05d}.png", t + len(name))
    for split, names in (("train", ("bear", "swan")), ("val", ("libby",))):
        listing = root / "ImageSets" / "2017" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.fixture
def small_davis(monkeypatch):
    """As if the official DAVIS 2017 were what `download` holds."""
    config = davis.Davis.builder_configs["2017"]
    monkeypatch.setattr(config, "counts", {"train": (2, 5), "val": (1, 2)})


def prepared(name: str, source: Path, tmp_path: Path, **options) -> Path:
    return prepare(name, source, data_dir=tmp_path / "tfds", progress=False, **options)


def test_prepared_davis_reads_as_its_folder_does(download, small_davis, tmp_path, capsys):
    folder = prepared("davis/2017", download, tmp_path)
    assert folder.is_dir() and folder.is_relative_to(tmp_path / "tfds")
    said = capsys.readouterr().out
    assert "train: 2 videos, 5 frames" in said and "val: 1 videos, 2 frames" in said
    assert "partial" not in said
    for split in ("train", "val"):
        ours = sources.videos("davis/2017", split=split, data_dir=tmp_path / "tfds")
        theirs = sources.videos(f"{download}:year=2017", split=split)
        assert ours.lengths == theirs.lengths
        for a, b in zip(ours, theirs, strict=True):
            assert a.name == b.name
            for t in range(len(b.frames)):
                np.testing.assert_array_equal(a.frames[t], b.frames[t])
                np.testing.assert_array_equal(a.masks[t], b.masks[t])
    assert set(np.unique(ours[0].masks[0])) == {0, 1, 2}
    left = sources.videos("davis/2017:without=bear", data_dir=tmp_path / "tfds")
    assert [video.name for video in left] == ["swan"]
    np.testing.assert_array_equal(
        left[0].frames[1], sources.videos(f"{download}:year=2017,only=swan")[0].frames[1]
    )


def test_records_hold_the_very_bytes_of_the_files(download, small_davis, tmp_path):
    prepared("davis/2017", download, tmp_path)
    records, _ = builders.prepared("davis/2017", "train", tmp_path / "tfds")
    file = download / "JPEGImages/480p/swan/00001.jpg"
    assert bytes(records[4]["picture"]) == file.read_bytes()
    mask = download / "Annotations/480p/swan/00001.png"
    assert bytes(records[4]["mask"]) == mask.read_bytes()
    assert (bytes(records[4]["video"]), int(records[4]["frame"])) == (b"swan", 1)


def test_preparing_again_leaves_what_is_there(download, small_davis, tmp_path, capsys):
    folder = prepared("davis/2017", download, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepared("davis/2017", download, tmp_path) == folder
    assert "prepared already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_download_that_is_not_complete_is_refused_unless_that_will_do(download, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"Found 2 sequences of the train list .* has 60\..*--par"):
        prepared("davis/2017", download, tmp_path)
    with pytest.raises(FileNotFoundError, match="davis/2017 is not prepared"):
        sources.videos("davis/2017", data_dir=tmp_path / "tfds")
    (download / "ImageSets/2017/val.txt").unlink()
    prepared("davis/2017", download, tmp_path, partial=True)
    said = capsys.readouterr().out
    assert "train: 2 videos, 5 frames" in said and "partial: not compared" in said
    with pytest.raises(ValueError, match=r"no split 'val'\. It has: train"):
        sources.videos("davis/2017", split="val", data_dir=tmp_path / "tfds")


def test_one_frame_too_few_is_noticed(download, small_davis, tmp_path):
    for kind, ending in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (download / kind / "480p" / "swan" / f"00001.{ending}").unlink()
    with pytest.raises(ValueError, match=r"Found 4 frames of the train list .* has 5\."):
        prepared("davis/2017", download, tmp_path)


def test_masks_that_are_missing_or_of_another_size_are_named(download, small_davis, tmp_path):
    masks = download / "Annotations/480p"
    save(masks / "bear/00001.png", 1, size=(16, 25))
    (masks / "libby/00000.png").write_bytes(b"no picture")
    with pytest.raises(
        ValueError, match=r"1 masks are of another size: .*bear.00001.jpg is 24 x 16"
    ):
        prepared("davis/2017", download, tmp_path)
    save(masks / "bear/00001.png", 1)
    with pytest.raises(ValueError, match=r"1 files are no pictures: .*libby.00000.png"):
        prepared("davis/2017", download, tmp_path)
    (masks / "libby/00000.png").unlink()
    for partial in (False, True):
        with pytest.raises(ValueError, match=r"1 frames have no mask: .*libby.00000.jpg"):
            prepared("davis/2017", download, tmp_path, partial=partial)
    assert not (tmp_path / "tfds/davis/2017/1.0.0").exists()


def test_a_damaged_data_set_is_noticed_when_it_is_read(download, small_davis, tmp_path):
    prepared("davis/2017", download, tmp_path)
    records, metadata = builders.prepared("davis/2017", "train", tmp_path / "tfds")
    assert metadata["videos"]["train"] == [["bear", 3], ["swan", 2]]
    shuffled = [records[number] for number in (1, 0, 2, 3, 4)]
    frames = encoded.column(shuffled, "bear", 0, 3, "picture", encoded.decode_picture)
    with pytest.raises(ValueError, match=r"is frame 1 of b?'bear' and not frame 0 of 'bear'"):
        frames[0]


@pytest.mark.parametrize(
    ("name", "pictures", "masks"),
    [
        ("duts", "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask"),
        ("msra10k", "MSRA10K_Imgs_GT/Imgs", "MSRA10K_Imgs_GT/Imgs"),
        ("dut_omron", "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    ],
)
def test_saliency_data_sets_are_prepared_from_the_folders_of_their_archives(
    tmp_path, name, pictures, masks
):
    root = tmp_path / "download"
    for number in range(3):
        save(root / pictures / f"p{number}.jpg", number)
        save(root / masks / f"p{number}.png", number)
    with pytest.raises(ValueError, match=f"Found 3 pictures of the train split of {name}, but"):
        prepared(name, root, tmp_path)
    prepared(name, root, tmp_path, partial=True)
    ours = sources.images(name, data_dir=tmp_path / "tfds")
    theirs = sources.images(str(root))
    assert [image.name for image in ours] == ["p0", "p1", "p2"]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.picture, b.picture)
        np.testing.assert_array_equal(a.mask, b.mask)
    with pytest.raises(ValueError, match=f"There are no videos called '{name}'"):
        sources.videos(name, data_dir=tmp_path / "tfds")


def test_a_complete_saliency_data_set_has_both_of_its_splits(tmp_path, monkeypatch):
    root = tmp_path / "download"
    for part, count in (("TR", 3), ("TE", 2)):
        for number in range(count):
            save(root / f"DUTS-{part}/DUTS-{part}-Image/{part}{number}.jpg", number)
            save(root / f"DUTS-{part}/DUTS-{part}-Mask/{part}{number}.png", number)
    official = {}

    def noted(what, found, count, *, partial):
        official[what] = (found, count)

    monkeypatch.setattr(pairs, "check_count", noted)
    prepared("duts", root, tmp_path)
    assert official == {
        "pictures of the train split of duts": (3, 10553),
        "pictures of the test split of duts": (2, 5019),
    }
    joined = [
        sources.images("duts", split=split, data_dir=tmp_path / "tfds")
        for split in ("train", "test")
    ]
    assert [[image.name for image in part] for part in joined] == [
        ["TR0", "TR1", "TR2"],
        ["TE0", "TE1"],
    ]


def test_the_official_counts_are_those_of_the_metadata(shared_data):
    metadata = json.loads((shared_data / "data" / "davis_meta.json").read_text())[
        "sequences"
    ].values()
    for year, key in (("2016", "davis16_set"), ("2017", "set2017")):
        for split, (sequences, frames) in davis.COUNTS[year].items():
            counts = [video["num_frames"] for video in metadata if video.get(key) == split]
            assert (len(counts), sum(counts)) == (sequences, frames)


def test_prepared_procedural_video_holds_the_clips_and_their_flow(tmp_path, monkeypatch):
    config = ProceduralConfig(
        name="salient", world=SALIENT, train=2, val=1, frames=3, size=(48, 64)
    )
    monkeypatch.setitem(Procedural.builder_configs, "salient", config)
    prepared("procedural/salient", None, tmp_path)
    found = sources.videos("procedural/salient", split="val", data_dir=tmp_path / "tfds")
    assert found.lengths == (3,)
    made = clip(0, seed=1, frames=3, size=(48, 64), world=SALIENT)
    for t in range(3):
        np.testing.assert_array_equal(found[0].frames[t], made.frames[t])
        np.testing.assert_array_equal(found[0].masks[t], made.labels[t])
    records, _ = builders.prepared("procedural/salient", "val", tmp_path / "tfds")
    for t in range(2):
        stored = decode_flow(bytes(records[t]["flow"]))
        np.testing.assert_allclose(stored, made.flow[t], atol=FLOW_STEP / 2 + 1e-6)
    assert bytes(records[2]["flow"]) == b""
    assert len(sources.videos("procedural/salient", data_dir=tmp_path / "tfds")) == 2


def test_flow_is_stored_to_a_64th_of_a_pixel_x_before_y():
    rng = np.random.default_rng(0)
    flow = rng.uniform(-300, 300, (20, 30, 2)).astype(np.float32)
    data = encode_flow(flow)
    np.testing.assert_allclose(decode_flow(data), flow, atol=FLOW_STEP / 2 + 1e-5)
    first = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[0, 0, ::-1]
    assert first[0] == round(float(flow[0, 0, 0]) * 64) + 32768
    with pytest.raises(ValueError, match="no flow as a PNG"):
        decode_flow(b"no picture")


def test_what_cannot_be_prepared_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No data set is called 'davis'.* davis/2016"):
        prepare("davis", tmp_path)
    with pytest.raises(ValueError, match="say where it is with --from"):
        prepare("davis/2016", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        prepare("davis/2016", tmp_path / "nowhere", data_dir=tmp_path)
    with pytest.raises(ValueError, match="takes nothing from"):
        prepare("procedural", tmp_path, data_dir=tmp_path)


def test_nothing_of_this_needs_tensorflow(download, tmp_path):
    code = (
        "import sys\n"
        "from jaxvos.programs.prepare import prepare\n"
        f"prepare('davis/2017', {str(download)!r}, data_dir={str(tmp_path / 'tfds')!r}, "
        "partial=True, progress=False)\n"
        "from data_pipelines import sources\n"
        f"v = sources.videos('davis/2017', data_dir={str(tmp_path / 'tfds')!r})\n"
        "print(v[1].frames[1].shape, 'tensorflow' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("(16, 24, 3) False False\n")


def test_a_real_folder_is_prepared(shared_data, tmp_path):
    root = shared_data / "data" / "davis16_tiny"
    prepared("davis/2016", root, tmp_path, partial=True)
    ours = sources.videos("davis/2016", split="val", data_dir=tmp_path / "tfds")
    theirs = sources.videos(f"{root}:split=val")
    assert ours.lengths == theirs.lengths == (12, 12, 12)
    np.testing.assert_array_equal(ours[2].frames[11], theirs[2].frames[11])
    np.testing.assert_array_equal(ours[2].masks[11], theirs[2].masks[11])
