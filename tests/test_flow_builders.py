"""FlyingChairs and FlyingThings3D as prepared data sets: pictures with exact flow, no masks."""

import numpy as np
import pytest

from data_pipelines import builders, sources
from jaxvos.flow.files import decode_pfm, read_flow
from jaxvos.programs.prepare import prepare
from tests.made_up_data import first
from tests.test_flow_sets import SIZE, chairs, field, things, write_pfm  # noqa: F401

FLOW = "optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_{:04d}_L.pfm"


def prepared(root, name="things") -> None:
    prepare(name, root, data_dir=root.parent / "tfds", progress=False)


def videos(root, text="things", **options):
    return sources.videos(text, data_dir=root.parent / "tfds", **options)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_of_bytes_is_that_of_the_file(tmp_path, order):
    flow = field(3)
    flow[2, 5] = (np.nan, 1)
    flow[4, 1] = (0, np.inf)
    write_pfm(tmp_path / "a.pfm", flow, order)
    data = (tmp_path / "a.pfm").read_bytes()
    found = decode_pfm(data, "a")
    np.testing.assert_array_equal(found, read_flow(tmp_path / "a.pfm"))
    assert found.dtype == np.float32 and np.isnan(found).all(axis=-1).sum() == 2
    for bad in (b"", b"hello", data[:-7], data.replace(b"PF", b"Pf", 1)):
        with pytest.raises(ValueError, match=r"flow 3 of b (is no \.pfm file|has \d+ bytes)"):
            decode_pfm(bad, "flow 3 of b")


def test_prepared_things_read_as_their_folder_does(things, capsys):  # noqa: F811
    prepared(things)
    said = capsys.readouterr().out
    assert "train: 1 videos, 3 frames" in said and "test: 1 videos, 2 frames" in said
    assert "partial" not in said
    for split in ("train", "test"):
        (ours,), (theirs,) = (
            videos(things, split=split),
            sources.videos(f"things:{things}", split=split),
        )
        assert ours.name == theirs.name and ours.masks is None
        assert len(ours.flow) == len(ours.frames) - 1 == len(theirs.flow)
        for a, b in ((ours.frames, theirs.frames), (ours.flow, theirs.flow)):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
    assert len(videos(things, "things:split=test")[0].frames) == 2
    records, _ = builders.prepared("things", "train", things.parent / "tfds")
    assert records[0].keys() == {"video", "frame", "picture", "flow"}
    assert bytes(records[1]["flow"]) == (things / FLOW.format(7)).read_bytes()
    assert bytes(records[2]["flow"]) == b""


def test_one_pass_and_one_split_will_do(things):  # noqa: F811
    (things / "frames_cleanpass").rename(things / "frames_finalpass")
    (things / "frames_finalpass/TRAIN").rename(things / "elsewhere")
    prepared(things)
    assert videos(things, split="test").lengths == (2,)
    with pytest.raises(ValueError, match=r"no split 'train'\. It has: test"):
        videos(things)


def test_clips_are_trained_on_with_their_flow_alone(things):  # noqa: F811
    prepared(things)
    options = {"sample": "clip", "frames": 2, "order": "consecutive", "gap": 1, "copies": 1}
    found = videos(things)
    (batch,) = first(1, batch=2, videos=found, size=SIZE, flow="video", **options)
    assert batch.keys() == {"frames", "flow", "names"}
    for frames, flow, name in zip(batch["frames"], batch["flow"], batch["names"], strict=True):
        t = int(str(name).rsplit("/", 1)[1].split("+")[0])
        np.testing.assert_array_equal(frames[0], found[0].frames[t])
        np.testing.assert_allclose(flow[0], found[0].flow[t], atol=1e-5)


@pytest.mark.parametrize("change", ["short", "long", "narrow", "turned", "grey", "no pfm"])
def test_flow_that_is_not_its_pictures_is_refused(things, change):  # noqa: F811
    path = things / FLOW.format(7)
    data = path.read_bytes()
    made = {
        "short": data[:-4],
        "long": data + bytes(64),
        "turned": data.replace(b"32 24", b"24 32", 1),
        "grey": data.replace(b"PF", b"Pf", 1),
        "no pfm": b"hello",
    }
    if change == "narrow":
        write_pfm(path, field(7)[:, 1:])
    else:
        path.write_bytes(made[change])
    with pytest.raises(ValueError, match=r"1 files are no \.pfm .*_0007_L\.pfm \(32 x 24\)"):
        prepared(things)
    assert not list((things.parent / "tfds").glob("things/*"))


def test_missing_and_broken_files_are_named(things):  # noqa: F811
    picture = things / "frames_cleanpass/TEST/A/0000/left/0007.png"
    picture.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 files are no pictures: .*TEST.*0007\.png"):
        prepared(things)
    (things / FLOW.format(6)).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files are missing: .*_0006_L\.pfm"):
        prepared(things)
    with pytest.raises(FileNotFoundError, match="neither of frames_cleanpass"):
        prepared(things / "optical_flow")


def test_prepared_chairs_read_as_their_folder_does(chairs):  # noqa: F811
    prepared(chairs, "chairs")
    for split, count in (("train", 3), ("val", 1)):
        ours = videos(chairs, "chairs", split=split)
        theirs = sources.videos(f"chairs:{chairs}", split=split)
        assert len(ours) == len(theirs) == count
        for a, b in zip(ours, theirs, strict=True):
            assert a.name == b.name and len(a.frames) == 2 and a.masks is None
            for x, y in zip((*a.frames, *a.flow), (*b.frames, *b.flow), strict=True):
                np.testing.assert_array_equal(x, y)


def test_chairs_without_their_list_are_all_for_training(chairs):  # noqa: F811
    (chairs / "FlyingChairs_train_val.txt").unlink()
    prepared(chairs, "chairs")
    assert videos(chairs, "chairs").lengths == (2, 2, 2, 2)
    with pytest.raises(ValueError, match=r"no split 'val'\. It has: train"):
        videos(chairs, "chairs", split="val")


@pytest.mark.parametrize("change", ["short", "turned", "no flo"])
def test_flow_of_chairs_that_is_not_its_pictures_is_refused(chairs, change):  # noqa: F811
    path = chairs / "data/00003_flow.flo"
    data = path.read_bytes()
    turned = data[:4] + data[8:12] + data[4:8] + data[12:]
    path.write_bytes({"short": data[:-4], "turned": turned, "no flo": b"PIEH"}[change])
    with pytest.raises(ValueError, match=r"1 files are no \.flo of .*00003_flow\.flo \(32 x 24\)"):
        prepared(chairs, "chairs")
