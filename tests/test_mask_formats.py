"""Masks written as run lengths are those of COCO's own tools, and come back as they were."""

import json
import tracemalloc

import av
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from jaxvos.drawing import davis_palette
from jaxvos.mask_formats import (
    Clip,
    area_and_box,
    compress_rle,
    decode_rle,
    encode_rle,
    known_formats,
    mask_writer,
)
from jaxvos.video import open_video, read_mask

H, W = 20, 30


def at(*places, size=(H, W)):
    """A mask [H, W] bool that is True at the places, indices or slices (y, x)."""
    mask = np.zeros(size, bool)
    for place in places:
        mask[place] = True
    return mask


def noise(seed, share, size=(H, W)):
    return np.random.default_rng(seed).random(size) < share


ALL = slice(None)
MASKS = {
    "empty": at(),
    "full": at((ALL, ALL)),
    "first pixel": at((0, 0)),
    "last pixel": at((-1, -1)),
    "lower left pixel": at((-1, 0)),
    "upper right pixel": at((0, -1)),
    "inner pixel": at((7, 11)),
    "row": at((4, ALL)),
    "column": at((ALL, 8)),
    "part of a row": at((4, slice(3, 20))),
    "part of a column": at((slice(3, 9), 8)),
    "from a column's foot to the next one's head": at((slice(15, None), 8), (slice(0, 2), 9)),
    "all but a pixel": ~at((7, 11)),
    "box": at((slice(2, 9), slice(4, 22))),
    "two boxes": at((slice(2, 5), slice(4, 22)), (slice(9, 12), slice(1, 3))),
    "sparse noise": noise(0, 0.05),
    "noise": noise(1, 0.5),
    "dense noise": noise(2, 0.95),
    "one row": noise(3, 0.5, (1, 40)),
    "one column": noise(4, 0.5, (40, 1)),
    "nothing of one": at(size=(1, 1)),
    "one of one": at((0, 0), size=(1, 1)),
    "large": at((slice(100, 1900), slice(50, 1450)), size=(2000, 1500)),
    "large and full": at((ALL, ALL), size=(2000, 1500)),
}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@every_mask
def test_packed_counts_are_those_of_coco(mask):
    theirs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    ours = encode_rle(mask)
    assert compress_rle(ours)["counts"].encode() == theirs["counts"]
    assert ours["size"] == compress_rle(ours)["size"] == theirs["size"] == list(mask.shape)
    assert coco_mask.frPyObjects(ours, *mask.shape) == theirs  # from a list of counts


@every_mask
def test_masks_come_back_from_lists_from_text_and_from_bytes(mask):
    rle = encode_rle(mask)
    theirs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    for form in (rle, compress_rle(rle), theirs, json.loads(json.dumps(rle))):
        read = decode_rle(form)
        assert read.dtype == bool
        np.testing.assert_array_equal(read, mask)


@every_mask
def test_area_and_box_are_those_of_coco(mask):
    theirs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    area, box = area_and_box(encode_rle(mask))
    assert (area, box) == (coco_mask.area(theirs), coco_mask.toBbox(theirs).tolist())


def test_counts_run_down_the_columns_and_start_with_zeros():
    assert encode_rle(np.array([[0, 1, 1], [0, 1, 0]]))["counts"] == [2, 3, 1]
    assert encode_rle(np.array([[7, 0], [0, 0]])) == {"size": [2, 2], "counts": [0, 1, 3]}
    assert encode_rle(np.zeros((2, 3), np.uint8))["counts"] == [6]


def test_runs_of_any_length_are_packed_as_coco_packs_them():
    rng = np.random.default_rng(0)
    # Around the powers of two, where another character is needed, and all sizes between.
    powers = 2 ** np.arange(31)
    counts = np.concatenate((powers, powers - 1, powers + 1, 2 ** rng.uniform(0, 31, 300)))
    for order in range(5):
        counts = rng.permutation(counts).astype(int)
        rle = {"size": [60000, 60000], "counts": counts.tolist()}
        theirs = coco_mask.frPyObjects(rle, 60000, 60000)
        assert compress_rle(rle)["counts"].encode() == theirs["counts"], order


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([2, 3], "5 pixels together; 2 x 3 are 6"),
        ([2, 3, 2], "7 pixels together"),
        ([7, -1], "run of -1 pixels"),
        ([], "0 pixels together"),
        ("", "no packed counts"),
        ("23", "5 pixels together"),
        ("2 1", "no packed counts"),
        ("q23", "no packed counts"),
        ("23P", "no packed counts"),  # the last number goes on
        ("PPPPPPPP2", "past 7 characters"),
        ("5O2", "run of -1 pixels"),
    ],
)
def test_a_damaged_encoding_is_an_error(counts, words):
    with pytest.raises(ValueError, match=words):
        decode_rle({"size": [2, 3], "counts": counts})


def test_what_is_no_mask_or_no_encoding_is_an_error():
    with pytest.raises(ValueError, match=r"An RLE is .*, not \[\[1, 2, 3, 4\]\]"):
        decode_rle([[1, 2, 3, 4]])  # a polygon
    for wrong in (np.zeros((2, 3, 1), bool), np.zeros((2, 3)), np.zeros((0, 3), bool)):
        with pytest.raises(ValueError, match=r"A mask is \[H, W\] labels, not"):
            encode_rle(wrong)


def test_formats_are_given_in_a_sequence_or_with_commas_between():
    assert known_formats("png") == ("png",)
    assert known_formats("rle, png,rle") == known_formats(["rle", "png"]) == ("rle", "png")
    for formats in ("gif", ["png", "gif"], "png,gif"):
        with pytest.raises(ValueError, match=r"called 'gif'\. There are: png, rle, mp4, coco"):
            known_formats(formats)
    with pytest.raises(ValueError, match=r"called ''\. There are"):
        known_formats("png,")
    with pytest.raises(ValueError, match="choose some of: png"):
        known_formats([])


# Frame 0 has the objects 1 and 3, frame 1 none, frame 2 the objects 2 and 1.
LABELS = [
    at((slice(2, 9), slice(4, 22))) + 3 * at((slice(11, 20), slice(0, 3))),
    np.zeros((H, W), int),
    2 * noise(5, 0.5) + at((0, 0)) * ~noise(5, 0.5),
]
LABELS = [labels.astype(np.uint8) for labels in LABELS]
LABELS[2][0, :2] = [1, 2]


def scores_of(labels):
    """Scores [H, W, 3] that the labels may come from: 0.6, 0.7, 0.8 or 0.1, with a slope of x."""
    one = np.stack([np.where(labels == k, 0.5 + k / 10, 0.1) for k in (1, 2, 3)], -1)
    return (one + np.linspace(0, 0.05, W)[:, None]).astype(np.float32)


def write(folder, formats, frames=LABELS, scores=scores_of, rate=24.0):
    names = [f"frame{t}" for t in range(len(frames))]
    clip = Clip("walk", names, [f"{name}.png" for name in names], frames[0].shape, rate)
    with mask_writer(folder, clip, formats) as keep:
        for t, labels in enumerate(frames):
            keep(t, labels, scores(labels))


# Raised inside pycocotools wherever it decodes under numpy 2.
decodes = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@decodes
def test_coco_reads_the_masks_of_every_object(tmp_path):
    write(tmp_path, ["coco"])
    coco = COCO(tmp_path / "coco.json")
    seen = []
    for annotation in coco.dataset["annotations"]:
        t, label = annotation["image_id"] - 1, annotation["track_id"]
        mask = LABELS[t] == label
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
        score = scores_of(LABELS[t])[mask, label - 1].mean()
        assert annotation["score"] == pytest.approx(score, abs=1e-5)
        assert (annotation["category_id"], annotation["iscrowd"]) == (1, 0)
        seen.append((t, label))
    assert seen == [(0, 1), (0, 3), (2, 1), (2, 2)]
    assert coco.getAnnIds() == [1, 2, 3, 4]
    assert coco.getAnnIds(imgIds=[2]) == [] and coco.getAnnIds(imgIds=[1]) == [1, 2]
    assert coco.loadCats(coco.getCatIds())[0]["name"] == "object"


@decodes
def test_coco_reads_masks_of_every_kind(tmp_path):
    masks = [mask.astype(np.uint8) for mask in MASKS.values() if mask.shape == (H, W)]
    write(tmp_path, ["coco"], masks)
    coco = COCO(tmp_path / "coco.json")
    read = {a["image_id"] - 1: coco.annToMask(a) for a in coco.dataset["annotations"]}
    assert set(range(len(masks))) - set(read) == {0}  # the empty one
    for t, mask in read.items():
        np.testing.assert_array_equal(mask, masks[t])


def test_coco_has_an_image_for_every_frame(tmp_path):
    write(tmp_path, ["coco"])
    written = json.loads((tmp_path / "coco.json").read_text())
    video = {"id": 1, "name": "walk", "length": 3, "width": W, "height": H}
    assert written["videos"] == [video]
    size = {"width": W, "height": H}
    assert written["images"] == [
        {"id": t + 1, "file_name": f"frame{t}.png", "video_id": 1, "frame_index": t, **size}
        for t in range(3)
    ]
    assert set(written) == {"info", "videos", "images", "categories", "annotations"}


def test_the_score_of_a_single_object_needs_no_axis_of_objects(tmp_path):
    labels = (LABELS[0] == 1).astype(np.uint8)
    write(tmp_path, ["coco"], [labels], lambda labels: 0.1 + 0.65 * labels)
    (annotation,) = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert annotation["score"] == pytest.approx(0.75)


def test_run_lengths_are_written_by_frame_and_object(tmp_path):
    write(tmp_path, ["rle"], rate=25.0)
    written = json.loads((tmp_path / "masks.json").read_text())
    frames = written.pop("frames")
    assert written == {"video": "walk", "size": [H, W], "rate": 25.0}
    assert [frame["name"] for frame in frames] == ["frame0", "frame1", "frame2"]
    assert [[o["label"] for o in frame["objects"]] for frame in frames] == [[1, 3], [], [1, 2]]
    for frame, labels in zip(frames, LABELS, strict=True):
        for written_object in frame["objects"]:
            rle, label = written_object["rle"], written_object["label"]
            assert isinstance(rle["counts"], list)
            np.testing.assert_array_equal(decode_rle(rle), labels == label)


def test_films_and_odd_names_are_written_as_json_too(tmp_path):
    clip = Clip('a "b"\udce9ö', ['"\\'], ["\udce9.png"], (H, W), 30000 / 1001)
    with mask_writer(tmp_path, clip, ["coco", "rle"]) as keep:
        keep(0, LABELS[0], scores_of(LABELS[0]))
    read = {f: json.loads((tmp_path / f).read_text()) for f in ("coco.json", "masks.json")}
    assert read["coco.json"]["images"][0]["file_name"] == "\udce9.png"
    assert read["masks.json"]["video"] == clip.name
    assert read["masks.json"]["frames"][0]["name"] == '"\\'


def box(label):
    labels = np.zeros((H, W), np.uint8)
    labels[4:12, 8:20] = label
    return labels


def colours(path):
    """The colours inside and outside of `box` in each frame of a film."""
    return [
        (frame[8, 14].astype(int), frame[17, 26].astype(int)) for frame in open_video(path).frames
    ]


def test_the_film_of_a_single_object_is_white_on_black(tmp_path):
    for folder, one in (("plain", lambda x: x[..., 0]), ("axis", lambda x: x[..., :1])):
        (tmp_path / folder).mkdir()
        frames = [box(1), box(0)]
        write(
            tmp_path / folder, ["mp4"], frames, lambda x, one=one: one(scores_of(x)), 30000 / 1001
        )
        (inside, outside), (gone, _) = colours(tmp_path / folder / "masks.mp4")
        assert inside.min() > 245 and outside.max() < 10 and gone.max() < 10
    with av.open(str(tmp_path / "axis" / "masks.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate.as_integer_ratio() == (30000, 1001)
        assert (stream.codec_context.name, stream.height, stream.width) == ("h264", H, W)


def test_the_film_of_several_objects_has_the_colours_of_their_labels(tmp_path):
    write(tmp_path, ["mp4"], [box(1), box(2), box(3)])
    for label, (inside, outside) in enumerate(colours(tmp_path / "masks.mp4"), 1):
        assert np.abs(inside - davis_palette()[label]).max() < 30 and outside.max() < 10


def test_every_format_is_written_at_once(tmp_path):
    write(tmp_path, ["png", "rle", "mp4", "coco"])
    names = {"masks", "masks.json", "masks.mp4", "coco.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    for t, labels in enumerate(LABELS):
        np.testing.assert_array_equal(read_mask(tmp_path / "masks" / f"frame{t}.png"), labels)


def test_masks_reach_the_disk_as_they_come_and_memory_does_not_grow(tmp_path):
    names = [f"{t}" for t in range(90)]
    held, written = [], []
    tracemalloc.start()
    try:
        with mask_writer(tmp_path, Clip("long", names, names, (H, W), 24), ["rle", "coco"]) as keep:
            for t in range(90):
                mask = noise(t, 0.5)
                keep(t, mask.astype(np.uint8), mask.astype(np.float32))
                if t % 30 == 29:
                    held.append(tracemalloc.get_traced_memory()[0])
                    written.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    finally:
        tracemalloc.stop()
    assert held[2] - held[1] < 4000  # bytes; 30 frames are over 40,000 in the files
    assert min(np.diff(written)) > 40_000
    assert len(json.loads((tmp_path / "masks.json").read_text())["frames"]) == 90
