"""FlyingChairs and FlyingThings3D on made-up folders of their layout, and .pfm files."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines import sources
from data_pipelines.flow_sets import list_chairs, list_things
from jaxvos.flow.files import read_flow, write_flow
from tests.made_up_data import first

SIZE = (24, 32)


def field(seed):
    return np.random.default_rng(seed).standard_normal((*SIZE, 2)).astype(np.float32)


def show(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def write_pfm(path, flow, order="<"):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.concatenate([flow, np.zeros_like(flow[..., :1])], axis=-1)[::-1]
    head = f"PF\n{flow.shape[1]} {flow.shape[0]}\n{-1.0 if order == '<' else 1.0}\n".encode()
    path.write_bytes(head + values.astype(f"{order}f4").tobytes())


@pytest.fixture
def chairs(tmp_path):
    root = tmp_path / "FlyingChairs_release"
    for i in range(1, 5):
        for side in (1, 2):
            show(root / f"data/{i:05d}_img{side}.ppm", 10 * i + side)
        write_flow(root / f"data/{i:05d}_flow.flo", field(i))
    (root / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n1\n")
    return root


@pytest.fixture
def things(tmp_path):
    root = tmp_path / "things"
    for split, count in (("TRAIN", 3), ("TEST", 2)):
        for t in range(6, 6 + count):
            show(root / f"frames_cleanpass/{split}/A/0000/left/{t:04d}.png", t)
            name = f"optical_flow/{split}/A/0000/into_future/left/OpticalFlowIntoFuture_{t:04d}_L"
            write_pfm(root / f"{name}.pfm", field(t))
    return root


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_is_read_from_the_bottom_up_in_either_byte_order(tmp_path, order):
    write_pfm(tmp_path / "a.pfm", field(0), order)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.pfm"), field(0))
    data = (tmp_path / "a.pfm").read_bytes()
    for bad, words in (
        (data[:-1], "Is it whole"),
        (data.replace(b"PF", b"Pf", 1), "is it flow"),
        (b"hello", "no .pfm file"),
    ):
        (tmp_path / "b.pfm").write_bytes(bad)
        with pytest.raises(ValueError, match=words):
            read_flow(tmp_path / "b.pfm")


def test_pairs_of_chairs_are_split_by_their_list(chairs):
    assert [pair.name for pair in list_chairs(chairs)] == ["00001", "00003", "00004"]
    assert [pair.name for pair in list_chairs(chairs, split="val")] == ["00002"]
    (chairs / "FlyingChairs_train_val.txt").write_text("1 2")
    with pytest.raises(ValueError, match="has 2 marks, and there are 4 pairs"):
        list_chairs(chairs)
    (chairs / "FlyingChairs_train_val.txt").unlink()
    assert len(list_chairs(chairs)) == 4
    (chairs / "data/00002_flow.flo").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 files are missing: .*00002_flow\.flo"):
        list_chairs(chairs)
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        list_chairs(chairs.parent)


def test_things_come_in_sequences_whose_last_frame_has_no_flow(things):
    (clip,) = list_things(things)
    assert clip.name == "A/0000" and len(clip.frames) == 3 and len(clip.flows) == 2
    assert len(list_things(things, split="test")[0].frames) == 2
    for options, words in (({"split": "all"}, "not all"), ({"side": "up"}, "not train, up")):
        with pytest.raises(ValueError, match=words):
            list_things(things, **options)
    with pytest.raises(FileNotFoundError, match="holds no sequences"):
        list_things(things, side="right")
    with pytest.raises(FileNotFoundError, match="neither of frames_cleanpass"):
        list_things(things / "optical_flow")


@pytest.mark.parametrize("kind", ["chairs", "things"])
def test_training_reads_their_frames_and_flow(kind, request):
    root = request.getfixturevalue(kind)
    videos = sources.videos(f"{kind}:{root}")
    np.testing.assert_array_equal(videos[0].flow[0], field(1 if kind == "chairs" else 6))
    options = {"sample": "clip", "frames": 2, "order": "consecutive", "gap": 1, "copies": 1}
    (batch,) = first(1, batch=2, videos=videos, size=SIZE, flow="video", **options)
    assert batch.keys() == {"frames", "flow", "names"}
    by_name = {videos[i].name: videos[i] for i in range(len(videos))}
    for frames, flow, name in zip(batch["frames"], batch["flow"], batch["names"], strict=True):
        video, times = str(name).rsplit("/", 1)
        t = int(times.split("+")[0])
        np.testing.assert_array_equal(frames[0], by_name[video].frames[t])
        np.testing.assert_allclose(flow[0], by_name[video].flow[t], atol=1e-5)
