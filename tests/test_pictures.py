"""Pictures and masks are read as what they are, or the one that cannot be is named."""

import os

import numpy as np
import pytest
from PIL import Image

from jaxvos.drawing import davis_palette
from jaxvos.video import natural_key, open_video, read_mask, read_picture, write_mask
from tests.numbered_pictures import H, W, number_of, numbered, save


def test_a_folder_is_sorted_with_numbers_taken_as_numbers(tmp_path):
    for t in (10, 2, 1, 0):
        save(tmp_path / "clip" / f"frame{t}.png", numbered(t))
    (tmp_path / "clip" / "._frame1.png").write_text("what macOS leaves on other disks")
    (tmp_path / "clip" / "notes.txt").write_text("none of ours")
    video = open_video(tmp_path / "clip")
    assert video.name == "clip" and video.frames.rate is None
    assert video.frames.names == ["frame0", "frame1", "frame2", "frame10"]
    assert [number_of(p) for p in video.frames] == [0, 1, 2, 10] and number_of(
        video.frames[-1]
    ) == 10
    assert open_video(f"{tmp_path}/*/frame1*.png").frames.names == ["frame1", "frame10"]
    chosen = [tmp_path / "clip" / f"frame{t}.png" for t in (10, 0)]
    assert open_video(chosen).frames.names == ["frame10", "frame0"]
    assert len(open_video(tmp_path / "clip" / "frame2.png").frames) == 1


def test_zeros_in_front_and_capitals_do_not_change_the_order():
    names = ["a/b2.png", "a/B007.png", "a/b10.png", "a10/b1.png", "b.png"]
    assert sorted(reversed(names), key=natural_key) == names


def test_a_name_with_brackets_is_a_name_before_it_is_a_glob(tmp_path):
    save(tmp_path / "clip[1].png", numbered(3))
    assert open_video(tmp_path / "clip[1].png").frames.names == ["clip[1]"]


def test_every_kind_of_picture_becomes_rgb(tmp_path):
    rgb = numbered(5)
    grey, alpha = rgb[..., 0], np.full((H, W, 1), 128, np.uint8)
    kinds = {
        "grey.png": (grey, np.repeat(grey[..., None], 3, -1)),
        "grey.jpg": (np.full((H, W), 90, np.uint8), np.full((H, W, 3), 90)),
        "alpha.png": (np.concatenate([rgb, alpha], -1), rgb),
        "deep.png": (grey.astype(np.uint16) * 257, np.repeat(grey[..., None], 3, -1)),
        "deep.tif": (grey.astype(np.uint16) * 256 + 255, np.repeat(grey[..., None], 3, -1)),
        "one.png": (rgb[:1, :1], rgb[:1, :1]),
        "rgb.webp": (np.full((H, W, 3), 70, np.uint8), np.full((H, W, 3), 70)),
    }
    for name, (array, expected) in kinds.items():
        frame = open_video(save(tmp_path / name, array)).frames[0]
        np.testing.assert_array_equal(frame, expected, err_msg=name)
    palette = Image.fromarray((grey > 60).astype(np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    expected = np.where((grey > 60)[..., None], [40, 50, 60], [10, 20, 30])
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png"), expected)
    Image.fromarray(grey > 60).save(tmp_path / "bits.png")
    assert set(np.unique(read_picture(tmp_path / "bits.png"))) <= {0, 255}
    save(tmp_path / "float.tif", grey.astype(np.float32))
    with pytest.raises(ValueError, match=r"float\.tif .*mode 'F'"):
        read_picture(tmp_path / "float.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation, turned", [(3, lambda p: np.rot90(p, 2)),
                                                 (6, lambda p: np.rot90(p, -1)),
                                                 (8, lambda p: np.rot90(p, 1))])  # fmt: skip
def test_photos_are_turned_as_their_exif_header_says(suffix, orientation, turned, tmp_path):
    picture = np.zeros((H, W, 3), np.uint8)
    picture[: H // 2, : W // 2] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"photo.{suffix}", picture, exif=exif)
    frames = open_video(path).frames
    assert frames.size == turned(picture).shape[:2]
    assert np.abs(frames[0].astype(int) - turned(picture)).max() < 30


def test_a_broken_picture_is_named_and_never_padded(tmp_path):
    for t in range(3):
        save(tmp_path / "clip" / f"{t}.jpg", numbered(t, 240, 320))
    broken = tmp_path / "clip" / "1.jpg"
    whole = broken.read_bytes()
    for kept in (len(whole) - 3, len(whole) * 4 // 5, len(whole) // 3):
        broken.write_bytes(whole[:kept])
        frames = open_video(tmp_path / "clip").frames
        assert number_of(frames[0]) == 0 and number_of(frames[2]) == 2
        with pytest.raises(ValueError, match=r"1\.jpg cannot be read as a picture: .*truncated"):
            frames[1]
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=r"1\.jpg cannot be read as a picture"):
        open_video(tmp_path / "clip")


def test_pictures_of_two_sizes_or_one_name_are_named(tmp_path):
    save(tmp_path / "sizes" / "a.png", numbered(0))
    save(tmp_path / "sizes" / "b.png", numbered(0, 10, 20))
    with pytest.raises(ValueError, match=r"a\.png is 64 x 48 and .*b\.png is 20 x 10"):
        open_video(tmp_path / "sizes")
    save(tmp_path / "names" / "a.png", numbered(0))
    save(tmp_path / "names" / "a.jpg", numbered(0))
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png would both be the frame 'a'"):
        open_video(tmp_path / "names")


def test_the_palette_is_that_of_pascal_voc():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128)}
    known |= {8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    palette = davis_palette()
    assert {label: tuple(palette[label].tolist()) for label in known} == known


def test_masks_come_back_as_they_were_written(tmp_path):
    labels = np.random.default_rng(0).integers(0, 256, (7, 11))
    write_mask(tmp_path / "mask.png", labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), labels)
    np.testing.assert_array_equal(read_picture(tmp_path / "mask.png"), davis_palette()[labels])
    Image.fromarray(labels > 9).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), labels > 9)
    save(tmp_path / "grey.png", labels.astype(np.uint8))
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), labels)
    with pytest.raises(ValueError, match=r"rgb\.png .*mode 'RGB'"):
        read_mask(save(tmp_path / "rgb.png", numbered(0)))
    for wrong in (labels * 2, labels - 1, labels / 2, labels[None]):
        with pytest.raises(ValueError, match=r"wrong\.png"):
            write_mask(tmp_path / "wrong.png", wrong)
    assert not (tmp_path / "wrong.png").exists()


def test_a_mask_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    write_mask(tmp_path / "mask.png", np.ones((4, 4), int))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_mask(tmp_path / "mask.png", np.zeros((4, 4), int))
    assert read_mask(tmp_path / "mask.png").all()
    assert os.listdir(tmp_path) == ["mask.png"]
