"""What training reads: named by a text, listed at once, decoded late, sent to worker processes."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import clip_cache, encoded, sources
from data_pipelines.procedural import MOTION, SALIENT, WILD, clip
from data_pipelines.scenes import COUNTS, SHARES
from data_pipelines.synthesis import moving_still
from data_pipelines.video_records import VideoRecord

COLORS = [0, 0, 0, 200, 30, 60, 10, 250, 90]


def picture_of(number: int, size=(20, 30)) -> np.ndarray:
    """A picture that tells which one it is: [H, W, 3]."""
    ramp = np.linspace(0, 60, size[1]).astype(np.uint8)
    return np.stack([np.tile(ramp, (size[0], 1)) + n for n in (number, 2 * number, 90)], axis=-1)


def labels_of(number: int, size=(20, 30)) -> np.ndarray:
    """A mask with objects 1 and 2 in places that tell which one it is: [H, W]."""
    labels = np.zeros(size, np.uint8)
    labels[2:8, number : number + 4] = 1
    labels[10:15, number : number + 6] = 2
    return labels


def save_palette(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette(COLORS)
    image.save(path)


def save_picture(path: Path, picture: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


@pytest.fixture
def davis(tmp_path) -> Path:
    """A folder laid out like DAVIS: cat (3 frames) and dog (2) to train on, owl (1) to validate."""
    root = tmp_path / "DAVIS"
    for name, count in (("cat", 3), ("dog", 2), ("owl", 1)):
        for t in range(count):
            frame = root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg"
            save_picture(frame, picture_of(t + 7 * count), quality=95)
            save_palette(root / "Annotations" / "480p" / name / f"{t:05d}.png", labels_of(t))
    lists = root / "ImageSets" / "2016"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("cat\ndog\n")
    (lists / "val.txt").write_text("owl\n")
    return root


def saliency(root: Path, pictures: str, masks: str, count: int) -> None:
    """`count` pictures with grey masks in two subfolders (or in one)."""
    for n in range(count):
        save_picture(root / pictures / f"p{n}.jpg", picture_of(n), quality=95)
        mask = np.where(labels_of(n) > 0, 255, 0).astype(np.uint8)
        save_picture(root / masks / f"p{n}.png", mask)


def same(a: VideoRecord, b: VideoRecord) -> bool:
    return a.name == b.name and all(
        np.array_equal(x, y)
        for one, two in ((a.frames, b.frames), (a.masks, b.masks))
        for x, y in zip(one, two, strict=True)
    )


def flow_of(video: VideoRecord) -> np.ndarray:
    return np.stack(list(video.flow))


def test_a_davis_folder_gives_its_videos_in_order_with_palette_indices(davis):
    found = sources.videos(str(davis))
    assert [video.name for video in found] == ["cat", "dog"]
    assert found.lengths == (3, 2)
    frames, masks = found[0].frames, found[0].masks
    assert (len(frames), len(masks)) == (3, 3)
    for t in range(3):
        assert np.abs(frames[t].astype(int) - picture_of(t + 21)).max() < 12
        np.testing.assert_array_equal(masks[t], labels_of(t))
        assert masks[t].dtype == np.uint8
    np.testing.assert_array_equal(masks[-1], masks[2])
    with pytest.raises(IndexError, match="no item 3 among 3"):
        frames[3]


def test_pictures_are_rgb_not_bgr(davis):
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 250
    save_picture(davis / "JPEGImages" / "480p" / "cat" / "00000.jpg", red)
    assert sources.videos(str(davis))[0].frames[0][5, 5].tolist() == pytest.approx(
        [250, 0, 0], abs=4
    )


def test_nothing_is_decoded_before_it_is_asked_for(davis, monkeypatch):
    asked = []

    def noted(data, name):
        asked.append(Path(name).parent.name + "/" + Path(name).name)
        return decode(data, name)

    decode = encoded.decode_picture
    monkeypatch.setattr(encoded, "decode_picture", noted)
    found = sources.videos(str(davis))
    video = found[1]
    assert sum(found.lengths) == 5 and len(video.frames) == 2
    assert asked == []
    video.frames[1]
    assert asked == ["dog/00001.jpg"]


def test_splits_and_single_videos_are_chosen_in_the_text(davis):
    def names(spec, **options):
        return [video.name for video in sources.videos(spec, **options)]

    assert names(f"{davis}:split=val") == names(str(davis), split="val") == ["owl"]
    assert names(f"{davis}:split=all") == ["cat", "dog", "owl"]
    assert names(f"{davis}:split=all,without=cat,without=owl") == ["dog"]
    assert names(f"{davis}:only=dog") == ["dog"]
    with pytest.raises(ValueError, match=r"no video called horse. It has: cat, dog"):
        names(f"{davis}:without=horse")
    with pytest.raises(ValueError, match="all 2 videos are left out"):
        names(f"{davis}:without=cat,without=dog")
    with pytest.raises(FileNotFoundError, match="test"):
        names(f"{davis}:split=test")


def test_frames_without_masks_are_named(davis):
    (davis / "Annotations" / "480p" / "dog" / "00001.png").unlink()
    with pytest.raises(ValueError, match=r"1 frames of .* have no mask: .*dog.00001\.jpg"):
        sources.videos(str(davis))


def test_an_option_that_is_not_known_is_refused_by_name(davis):
    with pytest.raises(ValueError, match=r"procedural has no option 'clip'. It has: clips, frames"):
        sources.videos("procedural:clip=3")
    with pytest.raises(ValueError, match=r"no option 'clips'\. It has: split, year, only, without"):
        sources.videos(f"{davis}:clips=3")
    with pytest.raises(ValueError, match="clips must be a whole number of at least 1, not '0'"):
        sources.videos("procedural:clips=0")
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0, not '-1'"):
        sources.videos("procedural:seed=-1")
    for share in ("much", "1.5", "-0.1", "nan"):
        with pytest.raises(ValueError, match=f"trail must be a number from 0 to 1, not '{share}'"):
            sources.videos(f"procedural:trail={share}")
    with pytest.raises(ValueError, match="given seed twice: 1 and 2"):
        sources.videos("procedural:seed=1,seed=2")
    with pytest.raises(ValueError, match="has 'frames'"):
        sources.videos("procedural:clips=2,frames")


def test_a_name_that_is_nothing_is_answered_with_what_there_is(tmp_path):
    with pytest.raises(ValueError) as error:
        sources.videos("procedual", data_dir=tmp_path)
    for part in ("'procedual'", "Did you mean procedural?", "JPEGImages/", "davis/2016"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"images/ and masks/.*dut_omron"):
        sources.images(str(tmp_path / "nowhere"), data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="`jaxvos prepare davis/2016 --from FOLDER`"):
        sources.videos("davis/2016", data_dir=tmp_path)
    with pytest.raises(ValueError, match="names no source"):
        sources.videos("procedural+")


def test_procedural_videos_are_the_clips_of_their_seed():
    spec = "procedural-salient:clips=3,frames=2,seed=9,height=48,width=64"
    found = sources.videos(spec)
    assert found.lengths == (2, 2, 2)
    for index, video in enumerate(found):
        made = clip(index, seed=9, frames=2, size=(48, 64), world=SALIENT)
        for t in range(2):
            np.testing.assert_array_equal(video.frames[t], made.frames[t])
            np.testing.assert_array_equal(video.masks[t], made.labels[t])


def test_a_world_is_asked_for_with_more_or_less_of_something():
    spec = "procedural-wild:clips=1,frames=2,seed=9,height=48,width=64"
    more = sources.videos(f"{spec},trail=1,shadow=0.0")[0]
    world = replace(WILD, trail=1.0, shadow=0.0)
    made = clip(0, seed=9, frames=2, size=(48, 64), world=world)
    np.testing.assert_array_equal(more.frames[1], made.frames[1])
    assert (more.frames[1] != sources.videos(spec)[0].frames[1]).any()
    for name in SHARES:
        assert 0 <= getattr(WILD, name) <= 1


@pytest.mark.parametrize(
    ("given", "fewest", "most"), [("grounds=0", 0, 0), ("grounds=1", 1, 1), ("distractors=9", 0, 9)]
)
def test_a_world_is_asked_for_with_so_many_of_something_at_most(given, fewest, most):
    spec = "procedural-wild:clips=1,frames=2,seed=9,height=48,width=64"
    made = sources.videos(f"{spec},{given}")[0]
    world = replace(WILD, **{given.split("=")[0]: (fewest, most)})
    wanted = clip(0, seed=9, frames=2, size=(48, 64), world=world)
    np.testing.assert_array_equal(made.frames[1], wanted.frames[1])
    assert (made.frames[1] != sources.videos(spec)[0].frames[1]).any()
    assert set(COUNTS) == {"grounds", "distractors"}


def test_a_count_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError, match=r"distractors must be a whole number .* 0, not '0.5'"):
        sources.videos("procedural-wild:distractors=0.5")


def test_procedural_videos_know_their_flow_and_files_do_not(davis):
    spec = "procedural-salient:clips=3,frames=3,seed=9,height=48,width=64"
    flow = sources.videos(spec)[1].flow
    made = clip(1, seed=9, frames=3, size=(48, 64), world=SALIENT)
    assert len(flow) == 2
    np.testing.assert_array_equal(np.stack(list(flow)), made.flow)
    assert sources.videos(str(davis))[0].flow is None


def test_nobody_renders_a_flow_that_is_not_asked_for(monkeypatch):
    rendered = []

    def counted(index, **options):
        rendered.append(index)
        return clip(index, **options)

    monkeypatch.setattr(sources, "clip", counted)
    video = sources.videos("procedural:clips=2,frames=3,height=48,width=64")[1]
    _ = video.frames[0], video.masks[2]
    assert rendered == []
    _ = video.flow[0], video.flow[1]
    assert rendered == [1]


def test_stills_are_videos_that_begin_with_each_picture(tmp_path):
    saliency(tmp_path, "images", "masks", 3)
    pictures, found = sources.images(str(tmp_path)), sources.videos(f"stills:{tmp_path}")
    assert found.lengths == (2, 2, 2)
    assert [video.name for video in found] == ["p0", "p1", "p2"]
    for image, video in zip(pictures, found, strict=True):
        assert len(video.frames) == len(video.masks) == 2 and len(video.flow) == 1
        np.testing.assert_array_equal(video.frames[0], image.picture)
        np.testing.assert_array_equal(video.masks[0], image.mask != 0)
        assert video.frames[1].shape == image.picture.shape
        assert (video.frames[1] != image.picture).any() and video.flow[0].shape == (20, 30, 2)
    longer = sources.videos(f"stills:{tmp_path}:frames=4")
    assert longer.lengths == (4, 4, 4) and len(longer[0].flow) == 3
    np.testing.assert_array_equal(longer[1].frames[1], found[1].frames[1])


def test_a_still_moves_the_same_way_each_time_and_another_way_with_another_seed(tmp_path):
    saliency(tmp_path, ".", ".", 2)
    first, again = (sources.videos(f"stills:{tmp_path}") for _ in range(2))
    np.testing.assert_array_equal(flow_of(first[1]), flow_of(again[1]))
    other = sources.videos(f"stills:{tmp_path}:seed=5")[1]
    assert (flow_of(other) != flow_of(first[1])).any()
    assert (flow_of(first[0]) != flow_of(first[1])).any()
    rng = np.random.default_rng([5, 1])
    image = sources.images(str(tmp_path))[1]
    np.testing.assert_array_equal(flow_of(other), moving_still(image.picture, image.mask, rng).flow)


def test_a_still_is_read_and_moved_once_for_all_its_frames(tmp_path, monkeypatch):
    saliency(tmp_path, ".", ".", 2)
    moved = []

    def counted(*args, **options):
        moved.append(args)
        return moving_still(*args, **options)

    monkeypatch.setattr(sources, "moving_still", counted)
    video = sources.videos(f"stills:{tmp_path}:frames=3")[1]
    assert moved == []
    _ = [(video.frames[t], video.masks[t]) for t in range(3)], video.flow[1]
    assert len(moved) == 1


def test_options_of_stills_that_are_not_theirs_are_the_pictures(tmp_path):
    saliency(tmp_path, "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", 3)
    saliency(tmp_path, "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", 2)
    assert sources.videos(f"stills:{tmp_path}:split=test,frames=3").lengths == (3, 3)
    assert len(sources.videos(f"stills:{tmp_path}", split="test")) == 2
    made_up = sources.videos("stills:procedural:clips=3,height=48,width=64,frames=1")
    assert made_up.lengths == (1, 1, 1) and len(made_up[2].flow) == 0
    both = sources.videos(f"stills:{tmp_path}+procedural:clips=1,height=48,width=64")
    assert both.lengths == (2, 2, 2, 8)
    with pytest.raises(ValueError, match="no option 'clips'"):
        sources.videos(f"stills:{tmp_path}:clips=3")
    with pytest.raises(ValueError, match="frames must be a whole number of at least 1, not '0'"):
        sources.videos(f"stills:{tmp_path}:frames=0")
    with pytest.raises(ValueError, match="given seed twice: 1 and 2"):
        sources.videos(f"stills:{tmp_path}:seed=1,seed=2")
    with pytest.raises(ValueError, match="There are no images called 'nowhere'"):
        sources.videos("stills:nowhere")


def test_data_sets_of_pictures_are_videos_as_stills_in_any_capitals(tmp_path):
    with pytest.raises(ValueError, match=r"no videos called 'duts'\. Did you mean stills:duts\?"):
        sources.videos("duts", data_dir=tmp_path)
    for name in ("duts", "DUTS"):
        with pytest.raises(FileNotFoundError, match="`jaxvos prepare duts --from FOLDER`"):
            sources.videos(f"stills:{name}", data_dir=tmp_path)


def test_splits_of_procedural_video_share_no_clip():
    def first(split):
        text = "procedural:clips=1,frames=1,height=48,width=64"
        return sources.videos(text, split=split)[0].frames[0].tobytes()

    assert len({first(split) for split in ("train", "val", "test")}) == 3
    with pytest.raises(ValueError, match=r"no split 'dev', only train, val, test: give seed="):
        first("dev")


def test_a_clip_is_rendered_once_while_there_is_room(monkeypatch):
    rendered = []

    def counted(index, **options):
        rendered.append(index)
        return clip(index, **options)

    monkeypatch.setattr(clip_cache, "clip", counted)
    monkeypatch.setattr(clip_cache, "_kept", type(clip_cache._kept)())
    monkeypatch.setattr(clip_cache, "KEPT_BYTES", 2 * 3 * 48 * 64 * 4)  # room for two clips
    found = sources.videos("procedural:clips=3,frames=3,seed=77,height=48,width=64")
    for index in (0, 1, 0, 2, 0, 1):
        _ = [found[index].frames[t] for t in range(3)], found[index].masks[2]
    # Clip 2 drives out 1, because 0 was asked for after it.
    assert rendered == [0, 1, 2, 1]


def test_procedural_images_are_single_frames_of_many_clips():
    found = sources.images("procedural:clips=3,seed=4,height=48,width=64")
    assert len(found) == 3
    made = clip(2, seed=4, frames=1, size=(48, 64), world=MOTION)
    np.testing.assert_array_equal(found[2].picture, made.frames[0])
    np.testing.assert_array_equal(found[2].mask, made.labels[0])
    more = sources.images("procedural:clips=2,frames=3,seed=4,height=48,width=64")
    assert [image.name for image in more][2:4] == ["clip-00000/00002", "clip-00001/00000"]


@pytest.mark.parametrize(
    ("pictures", "masks"),
    [
        ("images", "masks"),
        ("Image", "Mask"),
        ("JPEGImages", "Annotations"),
        ("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask"),
        ("MSRA10K_Imgs_GT/Imgs", "MSRA10K_Imgs_GT/Imgs"),
        ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        (".", "."),
    ],
)
def test_folders_of_pictures_and_masks_of_every_layout_are_read(tmp_path, pictures, masks):
    saliency(tmp_path, pictures, masks, 3)
    found = sources.images(str(tmp_path))
    assert [image.name for image in found] == ["p0", "p1", "p2"]
    assert np.abs(found[2].picture.astype(int) - picture_of(2)).max() < 12
    np.testing.assert_array_equal(found[2].mask, np.where(labels_of(2) > 0, 255, 0))


def test_the_split_decides_which_part_of_duts_is_read(tmp_path):
    saliency(tmp_path, "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", 3)
    saliency(tmp_path, "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask", 2)
    assert len(sources.images(str(tmp_path))) == 3
    assert len(sources.images(f"{tmp_path}:split=test")) == 2


def test_pictures_without_masks_and_masks_without_pictures_are_named(tmp_path):
    saliency(tmp_path, "images", "masks", 4)
    (tmp_path / "masks" / "p1.png").unlink()
    (tmp_path / "images" / "p3.jpg").unlink()
    with pytest.raises(ValueError) as error:
        sources.images(str(tmp_path))
    assert "1 pictures have no mask" in str(error.value) and "p1.jpg" in str(error.value)
    assert "1 masks have no picture" in str(error.value) and "p3.png" in str(error.value)
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no pictures with masks.*images \+ masks"):
        sources.images(str(tmp_path / "other"))


def test_sources_joined_by_a_plus_follow_each_other(davis, tmp_path):
    both = sources.videos(f"{davis}+procedural:clips=2,frames=4,height=48,width=64")
    assert both.lengths == (3, 2, 4, 4)
    assert [video.name for video in both] == ["cat", "dog", "clip-00000", "clip-00001"]
    saliency(tmp_path / "a", "images", "masks", 2)
    saliency(tmp_path / "b", ".", ".", 3)
    pictures = sources.images(f"{tmp_path / 'a'}+{tmp_path / 'b'}")
    assert [image.name for image in pictures] == ["p0", "p1", "p0", "p1", "p2"]
    saliency(tmp_path / "a+b", "images", "masks", 1)
    assert len(sources.images(str(tmp_path / "a+b"))) == 1


def test_everything_can_be_sent_to_another_process_and_reads_the_same(davis, tmp_path):
    saliency(tmp_path / "s", ".", ".", 2)
    stills = f"stills:{tmp_path / 's'}:frames=3"
    found = sources.videos(f"{davis}+procedural:clips=1,frames=2,height=48,width=64+{stills}")
    there = pickle.loads(pickle.dumps(found))
    assert len(pickle.dumps(found)) < 10_000
    assert there.lengths == found.lengths
    assert all(same(a, b) for a, b in zip(found, there, strict=True))
    np.testing.assert_array_equal(flow_of(found[-1]), flow_of(there[-1]))
    saliency(tmp_path, "images", "masks", 2)
    pictures = sources.images(str(tmp_path))
    here, sent = pictures[1], pickle.loads(pickle.dumps(pictures))[1]
    np.testing.assert_array_equal(here.picture, sent.picture)
    np.testing.assert_array_equal(here.mask, sent.mask)


def test_grey_masks_saved_in_colour_count_and_colours_do_not(tmp_path):
    grey = np.where(labels_of(3) > 0, 255, 0).astype(np.uint8)
    save_picture(tmp_path / "rgb.png", np.dstack([grey, grey, grey]))
    data = (tmp_path / "rgb.png").read_bytes()
    np.testing.assert_array_equal(encoded.decode_mask(data, "m"), grey)
    save_picture(tmp_path / "bits.png", grey > 0)
    data = (tmp_path / "bits.png").read_bytes()
    np.testing.assert_array_equal(encoded.decode_mask(data, "m"), grey > 0)
    save_picture(tmp_path / "colours.png", picture_of(5))
    with pytest.raises(ValueError, match=r"colours.png is a picture in colours, not a mask"):
        encoded.decode_mask((tmp_path / "colours.png").read_bytes(), "colours.png")
    save_picture(tmp_path / "deep.png", grey.astype(np.uint16) * 200)
    with pytest.raises(ValueError, match=r"deep.png is no mask of 8 bits"):
        encoded.decode_mask((tmp_path / "deep.png").read_bytes(), "deep.png")


def test_broken_files_are_named_when_they_are_read(davis):
    frame = davis / "JPEGImages" / "480p" / "cat" / "00001.jpg"
    whole = frame.read_bytes()
    video = sources.videos(str(davis))[0]
    for broken in (b"", b"no picture", whole[: len(whole) // 2]):
        frame.write_bytes(broken)
        with pytest.raises(ValueError, match=r"00001\.jpg cannot be decoded as a picture"):
            video.frames[1]
    frame.write_bytes(whole)
    assert video.frames[1].shape == (20, 30, 3)
    mask = davis / "Annotations" / "480p" / "cat" / "00001.png"
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"00001\.png cannot be decoded as a mask"):
        video.masks[1]


def test_pictures_are_not_turned_upright_because_their_masks_are_not(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    save_picture(tmp_path / "turned.jpg", picture_of(1), exif=exif)
    data = (tmp_path / "turned.jpg").read_bytes()
    assert encoded.decode_picture(data, "turned.jpg").shape == (20, 30, 3)


def test_real_frames_of_davis_are_read_as_pillow_reads_them(shared_data):
    root = shared_data / "data" / "davis16_tiny"
    found = sources.videos(f"{root}:split=val")
    assert found.lengths == (12, 12, 12)
    frame = root / "JPEGImages" / "480p" / found[0].name / "00004.jpg"
    with Image.open(frame) as image:
        theirs = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(found[0].frames[4] - theirs).max() <= 3
    assert np.unique(found[0].masks[4]).tolist() == [0, 255]


def test_real_masks_of_davis_2017_keep_objects_and_void(shared_data):
    found = sources.videos(f"{shared_data / 'data' / 'davis17_mini'}:year=2017")
    tennis = {video.name: video for video in found}["tennis"]
    assert np.unique(tennis.masks[0]).tolist() == [0, 1, 2, 255]
