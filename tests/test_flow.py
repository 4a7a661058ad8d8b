"""Flow: files of three kinds, the colour wheel, a video's fields, and `jaxvos flow`."""

import json
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.procedural import clip
from jaxvos.flow.colour import WHEEL, picture
from jaxvos.flow.dis import dis
from jaxvos.flow.each_frame import fit_flow, flow_of_each_frame
from jaxvos.flow.fields import Fields, with_flow
from jaxvos.flow.files import read_flow, write_flow
from jaxvos.programs.flow import flow as write_flow_of
from jaxvos.typing import Video
from jaxvos.video import open_video, read_picture, write_png


def field(size=(4, 5), seed=0):
    return (3 * np.random.default_rng(seed).standard_normal((*size, 2))).astype(np.float32)


@pytest.fixture(scope="module")
def made():
    return clip(1, frames=4, size=(48, 64))


@pytest.fixture
def folder(made, tmp_path):
    """The clip's pictures in a folder, by the names a.png to d.png."""
    from PIL import Image

    (tmp_path / "clip").mkdir()
    for name, frame in zip("abcd", made.frames, strict=True):
        write_png(tmp_path / "clip" / f"{name}.png", Image.fromarray(frame))
    return tmp_path / "clip"


def test_a_flo_file_is_a_tag_a_size_and_interleaved_numbers(tmp_path):
    flow, path = field(), tmp_path / "a.flo"
    head = struct.pack("<fii", 202021.25, 5, 4)
    path.write_bytes(head + flow.tobytes())
    np.testing.assert_array_equal(read_flow(path), flow)
    write_flow(tmp_path / "b.flo", flow)
    assert (tmp_path / "b.flo").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.flo", "b.flo"]


def test_npy_and_kitti_come_back(tmp_path):
    flow = field((6, 3))
    write_flow(tmp_path / "a.npy", flow)
    np.testing.assert_array_equal(read_flow(tmp_path / "a.npy"), flow)
    write_flow(tmp_path / "a.png", flow)
    np.testing.assert_allclose(read_flow(tmp_path / "a.png"), flow, atol=0.008)
    levels = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)  # B, G, R
    assert levels[0, 0].tolist() == [1, *(round(64 * v + 2**15) for v in flow[0, 0].tolist()[::-1])]


@pytest.mark.parametrize("suffix", [".flo", ".png"])
def test_what_is_not_known_is_nan(tmp_path, suffix):
    flow = field()
    flow[1, 2, 0] = np.nan
    write_flow(tmp_path / f"a{suffix}", flow)
    found = read_flow(tmp_path / f"a{suffix}")
    assert np.isnan(found[1, 2]).all() and np.isnan(found).sum() == 2


def test_files_that_hold_no_flow_are_named(tmp_path):
    good = struct.pack("<fii", 202021.25, 5, 4) + field().tobytes()
    wrong = {
        "tag.flo": (b"\0" * 100, "does not begin with 202021.25"),
        "short.flo": (good[:-3], "has 169 bytes, but says that it is 5 x 4 pixels: 172 bytes"),
        "empty.flo": (b"", "no .flo file"),
        "minus.flo": (struct.pack("<fii", 202021.25, -1, 4), "says that it is -1 x 4"),
        "text.npy": (b"hello", "no array of numbers"),
        "text.png": (b"hello", "no picture"),
        "flow.txt": (b"", "flow is read from .flo, .npy, .png"),
    }
    for name, (data, words) in wrong.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=words):
            read_flow(tmp_path / name)
    np.save(tmp_path / "mask.npy", np.zeros((4, 5)))
    cv2.imwrite(str(tmp_path / "wheel.png"), np.zeros((4, 5, 3), np.uint8))
    for name, words in (("mask.npy", r"\(4, 5\) of float64"), ("wheel.png", "turned back into")):
        with pytest.raises(ValueError, match=words):
            read_flow(tmp_path / name)
    for name, flow, words in (
        ("a.npy", field() * np.nan, "not finite, or not known, at 20 of 20"),
        ("a.png", field() + 600, "does not fit a KITTI picture"),
        ("a.flo", field()[..., 0], r"not \(4, 5\)"),
        ("a.jpg", field(), "flow is written to"),
    ):
        with pytest.raises(ValueError, match=words):
            write_flow(tmp_path / name, flow)
        assert not (tmp_path / name).exists()


def test_the_wheel_goes_once_round_and_rest_is_white():
    assert WHEEL.shape == (55, 3) and WHEEL[0].tolist() == [255, 0, 0]
    assert WHEEL[15].tolist() == [255, 255, 0] and WHEEL[21].tolist() == [0, 255, 0]
    assert (picture(np.zeros((2, 3, 2))) == 255).all()
    flow = np.array([[[3.0, 0], [1.5, 0], [0, 3], [0, 0]]])
    right, half, down, rest = picture(flow, longest=3)[0].tolist()
    assert right == [255, 0, 0] and half == [255, 127, 127] and rest == [255] * 3
    assert down == [255, 229, 0]  # a quarter round: yellow
    assert picture(flow, longest=1)[0, 0].tolist() == [191, 0, 0]  # too fast: darker
    np.testing.assert_array_equal(picture(flow, bgr=True)[..., ::-1], picture(flow))


def test_a_picture_is_stretched_to_its_fastest_or_to_a_fixed_speed():
    flow = field((8, 9))
    assert np.abs(picture(flow).astype(int) - picture(3 * flow)).max() <= 1
    assert (picture(flow, longest=20) != picture(3 * flow, longest=20)).any()
    for bad in ({"longest": 0}, {"longest": -1}):
        with pytest.raises(ValueError, match="above 0"):
            picture(flow, **bad)
    with pytest.raises(ValueError, match="finite flow"):
        picture(flow * np.nan)


def test_fields_are_estimated_when_asked_for_and_checked(made):
    asked = []

    def make(t, u):
        asked.append((t, u))
        return dis(made.frames[t], made.frames[u])

    fields = Fields(made.frames, make)
    assert len(fields) == 3 and not asked
    np.testing.assert_array_equal(fields[1], dis(made.frames[1], made.frames[2]))
    np.testing.assert_array_equal(fields[-1], fields[2])
    assert asked == [(1, 2), (2, 3)]
    fields.between(3, 0)
    assert asked[-1] == (3, 0)
    with pytest.raises(IndexError, match="no flow 3: 4 frames have 3"):
        fields[3]
    with pytest.raises(ValueError, match=r"Flow 0 is \(3, 64, 2\), the frames are \(48, 64\)"):
        Fields(made.frames, lambda t, u: np.zeros((3, 64, 2)))[0]
    with pytest.raises(ValueError, match=r"frame 0 to 1: .* 6144 of 3072|not finite"):
        Fields(made.frames, lambda t, u: np.full((48, 64, 2), np.inf))[0]


def test_a_folder_of_flow_is_read_by_the_frames_names(folder, tmp_path):
    video = open_video(folder)
    flows = tmp_path / "flow"
    flows.mkdir()
    for seed, name in enumerate(("a.flo", "b.npy", "c.png")):
        write_flow(flows / name, field((48, 64), seed))
    found = with_flow(video, flows).flow
    for seed in range(3):
        np.testing.assert_allclose(found[seed], field((48, 64), seed), atol=0.008)
    with pytest.raises(ValueError, match=r"from frame 0 to 2 .* choose a method"):
        found.between(0, 2)
    (flows / "b.npy").unlink()
    with pytest.raises(ValueError, match=r"no flow of 1 of the first 3 .* missing is b"):
        with_flow(video, flows)
    write_flow(flows / "b.flo", np.where(np.arange(64)[:, None] > 62, np.nan, field((48, 64))))
    with pytest.raises(ValueError, match=r"b\.flo: flow is not finite, or not known, at 48"):
        with_flow(video, flows).flow[1]
    write_flow(flows / "b.flo", field((24, 32)))
    with pytest.raises(ValueError, match=r"Flow 1 is \(24, 32, 2\)"):
        with_flow(video, flows).flow[1]


@pytest.mark.parametrize("below", [".", "VIDEO", "VIDEO/FLOW", "FLOW"])
def test_pictures_of_flow_are_drawn_again_as_they_are(folder, tmp_path, below):
    video = open_video(folder)
    place = tmp_path / "drawn" / below.replace("VIDEO", video.name)
    place.mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(picture(field((48, 64), seed))).save(place / name)
    found = with_flow(video, f"wheel:{tmp_path / 'drawn'}").flow
    for seed in range(3):
        expected, again = picture(field((48, 64), seed)), picture(found[seed])
        assert np.abs(again.astype(int) - expected).mean() < 2
    (place / "b.png").unlink()
    with pytest.raises(ValueError, match=r"no flow of 1 of the first 3 .* missing is b \(\.png or"):
        with_flow(video, f"wheel:{tmp_path / 'drawn'}")
    with pytest.raises(ValueError, match=r"no folder .*elsewhere with pictures of flow"):
        with_flow(video, f"wheel:{tmp_path / 'elsewhere'}")


def test_a_method_is_known_by_its_name(folder):
    video = with_flow(open_video(folder), "dis")
    np.testing.assert_array_equal(video.flow[0], dis(video.frames[0], video.frames[1]))
    with pytest.raises(
        ValueError, match=r"neither a folder nor a method\. There are: dis, raft:WEIGHTS"
    ):
        with_flow(video, "farneback")


def test_a_video_that_stands_still_has_flow_near_zero_and_one_frame_none():
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    still = with_flow(Video([frame, frame]), "dis")
    assert np.abs(still.flow[0]).max() < 1e-2
    assert len(with_flow(Video([frame]), "dis").flow) == 0


def test_a_second_run_computes_nothing_and_a_changed_frame_only_its_own(folder, tmp_path):
    out, made_up = tmp_path / "out", Video([f for f in open_video(folder).frames], name="clip")
    assert write_flow_of(made_up, out, progress=False) == {"computed": 3, "kept": 0}
    first = {p.name: p.read_bytes() for p in out.glob("*.flo")}
    assert first.keys() == {"00000.flo", "00001.flo", "00002.flo"}
    np.testing.assert_array_equal(
        read_flow(out / "00001.flo"), dis(made_up.frames[1], made_up.frames[2])
    )
    assert write_flow_of(made_up, out, progress=False) == {"computed": 0, "kept": 3}
    made_up.frames[3] = 255 - made_up.frames[3]
    assert write_flow_of(made_up, out, progress=False) == {"computed": 1, "kept": 2}
    (out / "00000.flo").unlink()
    assert write_flow_of(made_up, out, progress=False) == {"computed": 1, "kept": 2}
    assert (out / "00000.flo").read_bytes() == first["00000.flo"]


def test_what_was_done_before_a_failure_is_kept(folder, tmp_path, monkeypatch):
    from jaxvos.flow import fields

    def breaks(frames, t, u):
        if t == 2:
            raise RuntimeError("out of memory")
        return dis(frames[t], frames[u])

    monkeypatch.setitem(fields.ESTIMATORS, "dis", breaks)
    with pytest.raises(RuntimeError, match="memory"):
        write_flow_of(folder, tmp_path / "out", progress=False)
    monkeypatch.undo()
    counts = write_flow_of(folder, tmp_path / "out", progress=False)
    assert counts == {"computed": 1, "kept": 2}


def test_gaps_and_backward_flow_are_named_after_the_frame_they_start_in(folder, tmp_path):
    frames = open_video(folder).frames
    write_flow_of(folder, tmp_path / "gap", gap=2, progress=False)
    assert {p.name for p in (tmp_path / "gap").iterdir()} == {"a.flo", "b.flo", "flow.json"}
    np.testing.assert_array_equal(read_flow(tmp_path / "gap/b.flo"), dis(frames[1], frames[3]))
    back = tmp_path / "back"
    write_flow_of(folder, back, gap=2, backward=True, form="npy", progress=False)
    assert {p.name for p in back.iterdir()} == {"c.npy", "d.npy", "flow.json"}
    np.testing.assert_array_equal(read_flow(back / "d.npy"), dis(frames[3], frames[1]))
    write_flow_of(folder, tmp_path / "wheel", form="wheel", progress=False)
    shown = read_picture(tmp_path / "wheel/a.png")
    np.testing.assert_array_equal(shown, picture(dis(frames[0], frames[1])))


def test_flow_that_would_be_mixed_up_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    write_flow_of(folder, out, progress=False)
    with pytest.raises(FileExistsError, match=r"'gap': 1.* not of .*'gap': 2"):
        write_flow_of(folder, out, gap=2, progress=False)
    counts = write_flow_of(folder, out, gap=2, overwrite=True, progress=False)
    assert counts == {"computed": 2, "kept": 0}
    assert json.loads((out / "flow.json").read_text())["settings"]["gap"] == 2
    assert {p.name for p in out.iterdir()} == {"a.flo", "b.flo", "flow.json"}
    with pytest.raises(FileExistsError, match=r"no flow\.json"):
        write_flow_of(folder, folder, progress=False)
    for options, words in (
        ({"gap": 4}, "between frames 1 to 3 apart, not 4"),
        ({"form": "jpg"}, "written as flo, npy, png, wheel"),
        ({"method": "magic"}, "There are: dis"),
    ):
        with pytest.raises(ValueError, match=words):
            write_flow_of(folder, tmp_path / "new", progress=False, **options)
    one = Video([np.zeros((40, 50, 3), np.uint8)])
    with pytest.raises(ValueError, match="A single frame has none"):
        write_flow_of(one, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_flow_of_squashed_frames_is_in_their_pixels():
    flow = np.broadcast_to(np.float32([4.0, 3.0]), (30, 80, 2))
    squashed = fit_flow(flow, (10, 20))
    np.testing.assert_allclose(squashed, np.broadcast_to([1.0, 1.0], (10, 20, 2)))


def test_each_frame_has_flow_the_last_one_that_of_the_one_before(made):
    fields = list(flow_of_each_frame(Video(made.frames, made.flow)))
    np.testing.assert_array_equal(fields, [*made.flow, made.flow[-1]])
    (alone,) = flow_of_each_frame(Video(made.frames[:1]))
    assert alone.shape == (48, 64, 2) and not alone.any()
