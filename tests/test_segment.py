"""Segmenting writes what was asked for, whole or not at all, in memory that does not grow."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

import jaxvos
from jaxvos import systems, whole_folder
from jaxvos.crf import refined
from jaxvos.drawing import overlay
from jaxvos.flow.dis import dis
from jaxvos.flow.files import write_flow
from jaxvos.mask_formats import decode_rle
from jaxvos.objects import tracked
from jaxvos.programs import segment as program
from jaxvos.programs.progress import frames_bar
from jaxvos.programs.segment import (
    finished,
    labels_of,
    needed_flow,
    segment,
    segment_to_folder,
    write_results,
)
from jaxvos.smoothing import smoothed
from jaxvos.typing import Video
from jaxvos.video import open_video, read_mask, write_mask

H, W, FRAMES = 34, 50, 14
ALWAYS = {"overlay.mp4", "sheet.png", "summary.json"}
WRITTEN = {"masks", *ALWAYS}
MASKS = {"png": "masks", "rle": "masks.json", "mp4": "masks.mp4", "coco": "coco.json"}


def square(t):
    """The made-up object of frame t, [H, W] bool: a square that moves; no object in frame 3."""
    mask = np.zeros((H, W), bool)
    if t != 3:
        mask[5:15, 2 + 2 * t : 12 + 2 * t] = True
    return mask


def segmenter(video):
    """Scores 0.9 where a frame is bright."""
    for frame in video.frames:
        yield np.where(frame.mean(-1) > 120, 0.9, 0.2).astype(np.float32)


@pytest.fixture
def clip(tmp_path):
    """A folder of pictures, bright where `square` is: frame0, frame1, ... frame13."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(FRAMES):
        picture = np.where(square(t)[..., None], 200, 40).astype(np.uint8).repeat(3, -1)
        Image.fromarray(picture).save(folder / f"frame{t}.png")
    return folder


@pytest.fixture
def film(tmp_path, clip):
    from jaxvos.film_writer import write_video

    write_video(tmp_path / "film.mp4", open_video(clip).frames, 30000 / 1001, crf=1)
    return tmp_path / "film.mp4"


def fake_systems(monkeypatch, segmenter=segmenter, asked=None):
    """Puts a `jaxvos.systems` in place whose `load` gives the segmenter."""

    def load(system, weights):
        def with_options(options):
            if asked is not None:
                asked.append((system, weights, options))
            return segmenter

        return SimpleNamespace(
            name="made-up",
            segmenter=with_options,
            system=SimpleNamespace(reads=()),
            origin=str(weights),
        )

    monkeypatch.setitem(sys.modules, "jaxvos.systems", SimpleNamespace(load=load))


def files_in(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def test_the_results_of_pictures_are_named_after_them(clip, tmp_path):
    summary = write_results(open_video(clip), segmenter, tmp_path / "out", scores=True)
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {*WRITTEN, "scores"}
    for t in range(FRAMES):
        np.testing.assert_array_equal(read_mask(out / "masks" / f"frame{t}.png"), square(t))
        scores = np.asarray(Image.open(out / "scores" / f"frame{t}.png"))
        assert scores.dtype == np.uint16
        np.testing.assert_allclose(scores / 65535, np.where(square(t), 0.9, 0.2), atol=1e-5)
    assert len(os.listdir(out / "masks")) == len(os.listdir(out / "scores")) == FRAMES
    assert Image.open(out / "masks" / "frame0.png").getpalette()[3:6] == [128, 0, 0]

    shown = open_video(out / "overlay.mp4").frames
    assert (len(shown), shown.rate, shown.size) == (FRAMES, 24.0, (H, W))
    # Inside the square of frame 6, where that of frame 0 is not: 45% red over 200.
    assert np.abs(shown[6][10, 18] - np.array([225, 110, 110])).max() < 20
    assert np.ptp(shown[6][30, 45].astype(int)) < 20  # outside it is as grey as it was

    assert json.loads((out / "summary.json").read_text()) == summary
    share = [square(t).mean() for t in range(FRAMES)]
    assert summary["foreground"] == pytest.approx(
        {"mean": np.mean(share), "min": 0, "max": np.max(share)}
    )
    assert summary["frames_without_foreground"] == ["frame3"]
    assert (summary["frames"], summary["height"], summary["width"]) == (FRAMES, H, W)
    assert summary["frames_per_second"] == pytest.approx(FRAMES / summary["seconds"], rel=0.1)
    assert summary["jaxvos"] == jaxvos.__version__


def test_the_results_of_a_film_keep_its_rate(film, tmp_path):
    write_results(open_video(film), segmenter, tmp_path / "out", progress=False)
    assert {file.name for file in (tmp_path / "out").iterdir()} == WRITTEN
    names = sorted(os.listdir(tmp_path / "out" / "masks"))
    assert names == [f"{t:05d}.png" for t in range(FRAMES)]
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        assert container.streams.video[0].average_rate.as_integer_ratio() == (30000, 1001)
    mask = read_mask(tmp_path / "out" / "masks" / "00008.png")
    assert np.mean(mask != square(8)) < 0.02


@pytest.mark.parametrize("formats", [*MASKS, "rle,mp4", ["coco", "png"], tuple(MASKS)])
def test_formats_choose_how_the_masks_are_written(formats, clip, tmp_path):
    out = tmp_path / "out"
    summary = write_results(open_video(clip), segmenter, out, formats=formats, progress=False)
    chosen = formats.split(",") if isinstance(formats, str) else list(formats)
    assert {file.name for file in out.iterdir()} == {*ALWAYS, *(MASKS[name] for name in chosen)}
    assert summary["formats"] == chosen


def test_the_masks_are_the_same_in_every_format(clip, tmp_path):
    write_results(open_video(clip), segmenter, tmp_path, formats=tuple(MASKS), progress=False)
    coco = json.loads((tmp_path / "coco.json").read_text())
    rle = json.loads((tmp_path / "masks.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [
        f"{frame['name']}.png" for frame in rle["frames"]
    ]
    of_image = {a["image_id"]: a for a in coco["annotations"]}
    film = open_video(tmp_path / "masks.mp4").frames
    assert (len(film), film.rate, film.size) == (FRAMES, 24.0, (H, W))
    for t, frame in enumerate(rle["frames"]):
        assert frame["name"] == f"frame{t}"
        mask = read_mask(tmp_path / "masks" / f"frame{t}.png")
        if t == 3:
            assert frame["objects"] == [] and t + 1 not in of_image
            continue
        np.testing.assert_array_equal(decode_rle(frame["objects"][0]["rle"]), mask)
        np.testing.assert_array_equal(decode_rle(of_image[t + 1]["segmentation"]), mask)
        assert of_image[t + 1]["score"] == pytest.approx(0.9)
        assert np.mean((film[t][..., 0] > 127) != mask) < 0.01


def test_a_films_frames_are_pictures_in_coco_and_its_rate_is_kept(film, tmp_path):
    write_results(open_video(film), segmenter, tmp_path, formats="coco,rle,mp4", progress=False)
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"{t:05d}.jpg" for t in range(FRAMES)]
    rle = json.loads((tmp_path / "masks.json").read_text())
    assert rle["video"] == "film" and rle["rate"] == pytest.approx(30000 / 1001)
    with av.open(str(tmp_path / "masks.mp4")) as container:
        assert container.streams.video[0].average_rate.as_integer_ratio() == (30000, 1001)


def test_an_unknown_format_is_an_error_before_any_work(clip, tmp_path, monkeypatch):
    fake_systems(monkeypatch, asked=(asked := []))
    for formats in ("gif", "png,gif", ["png", "gif"]):
        with pytest.raises(ValueError, match=r"called 'gif'\. There are: png, rle, mp4, coco"):
            segment_to_folder(clip, tmp_path / "out", formats=formats, progress=False)
        with pytest.raises(ValueError, match="'gif'"):
            write_results(open_video(clip), no_work, tmp_path / "out", formats=formats)
    assert asked == [] and os.listdir(tmp_path) == ["clip"]
    segment_to_folder(clip, tmp_path / "out", formats="rle", progress=False)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*ALWAYS, "masks.json"}


def test_results_in_one_format_make_way_for_those_in_another(clip, tmp_path):
    out, video = tmp_path / "out", open_video(clip)
    write_results(video, segmenter, out, formats=tuple(MASKS), progress=False)
    with pytest.raises(FileExistsError, match=r"masks, masks\.json, masks\.mp4, coco\.json"):
        write_results(video, no_work, out, progress=False)
    for formats in MASKS:
        write_results(video, segmenter, out, formats=formats, overwrite=True, progress=False)
        assert set(os.listdir(out)) == {*ALWAYS, MASKS[formats]}


def test_the_sheet_shows_twelve_frames_at_most(clip, tmp_path):
    write_results(open_video(clip), segmenter, tmp_path / "out", progress=False)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        width, height = sheet.size
    assert width == 10 + 4 * 330 and 3 * 200 < height < 3 * 280


def test_segment_gives_scores_one_by_one(clip, monkeypatch):
    done = []

    def counting(video):
        for t, scores in enumerate(segmenter(video)):
            done.append(t)
            yield scores

    asked = []
    fake_systems(monkeypatch, counting, asked)
    options = {"references": 3}
    scores = segment(str(clip), system="cosnet", weights="w.safetensors", options=options)
    assert asked == [("cosnet", "w.safetensors", options)] and done == []
    np.testing.assert_array_equal(next(scores) > 0.5, square(0))
    assert done == [0]
    assert len(list(scores)) == FRAMES - 1


def test_segment_to_folder_says_what_made_the_results(clip, tmp_path, monkeypatch):
    fake_systems(monkeypatch)
    summary = segment_to_folder(
        clip, tmp_path / "out", weights="w.safetensors", threshold=0.95, progress=False
    )
    assert (summary["system"], summary["weights"]) == ("made-up", "w.safetensors")
    assert summary["source"] == str(clip) and summary["threshold"] == 0.95
    assert len(summary["frames_without_foreground"]) == FRAMES  # 0.9 is not above 0.95


def test_a_video_in_memory_needs_no_files(tmp_path):
    video = Video([np.where(square(t)[..., None], 200, 40).repeat(3, -1).astype(np.uint8)
                   for t in range(3)], name="made-up")  # fmt: skip
    write_results(video, segmenter, tmp_path / "out", progress=False)
    assert os.listdir(tmp_path / "out" / "masks").__len__() == 3
    np.testing.assert_array_equal(read_mask(tmp_path / "out/masks/00002.png"), square(2))


def test_of_several_objects_the_highest_score_wins(clip, tmp_path):
    scores = np.zeros((H, W, 2), np.float32)
    scores[:10, :, 0], scores[5:20, :, 1], scores[20:, :, 1] = 0.7, 0.8, 0.4
    labels = labels_of(scores, 0.5)
    assert (labels[:5] == 1).all() and (labels[5:20] == 2).all() and not labels[20:].any()
    video = open_video(clip / "frame0.png")
    write_results(video, lambda _: iter([scores]), tmp_path / "out", scores=True, progress=False)
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / "frame0.png"), labels)
    assert sorted(os.listdir(tmp_path / "out/scores")) == ["frame0-1.png", "frame0-2.png"]
    second = np.asarray(Image.open(tmp_path / "out" / "scores" / "frame0-2.png"))
    assert second[7, 0] == round(0.8 * 65535)


GOOD = np.full((H, W), 0.5, np.float32)
BAD = {
    "not finite": ([GOOD, np.where(square(0), np.nan, GOOD)], "frame1: 100 scores are not finite"),
    "of another size": ([GOOD, GOOD, GOOD.T], r"frame2: scores are \(50, 34\)"),
    "out of range": ([GOOD + 3], r"frame0: scores are 3\.5 to 3\.5, not 0 to 1"),
    "negative": ([GOOD - 0.6], r"frame0: scores are -0\.1 to"),
    "too few": ([GOOD] * 5, "5 score maps for 14 frames; the first without one is frame5"),
    "none": ([], "0 score maps for 14 frames"),
    "too many": ([GOOD] * 15, "more score maps than its 14 frames"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_scores_are_an_error_that_names_the_frame(what, clip, tmp_path):
    maps, message = BAD[what]
    with pytest.raises(ValueError, match=message):
        write_results(open_video(clip), lambda _: iter(maps), tmp_path / "out", progress=False)
    assert os.listdir(tmp_path) == ["clip"]


def test_scores_a_rounding_error_past_one_are_clipped(clip, tmp_path):
    video = open_video(clip / "frame0.png")
    maps = [np.where(square(0), 1 + 1e-4, -1e-4)]
    write_results(video, lambda _: iter(maps), tmp_path / "out", scores=True, progress=False)
    scores = np.asarray(Image.open(tmp_path / "out" / "scores" / "frame0.png"))
    np.testing.assert_array_equal(scores, 65535 * square(0))


def no_work(_):
    raise AssertionError("work was begun")


def test_results_are_not_overwritten_unless_asked(clip, tmp_path):
    out, video = tmp_path / "out", open_video(clip)
    write_results(video, segmenter, out, scores=True, progress=False)
    (out / "notes.txt").write_text("mine")
    before = {name: (out / name).stat().st_mtime_ns for name in files_in(out)}
    with pytest.raises(FileExistsError, match=r"already holds masks, scores, overlay\.mp4"):
        write_results(video, no_work, out, progress=False)
    assert {name: (out / name).stat().st_mtime_ns for name in files_in(out)} == before
    short = open_video(sorted(clip.iterdir())[:2])
    write_results(short, segmenter, out, overwrite=True, progress=False)
    assert len(os.listdir(out / "masks")) == 2 and not (out / "scores").exists()
    assert set(os.listdir(out)) == {*WRITTEN, "notes.txt"}
    assert json.loads((out / "summary.json").read_text())["frames"] == 2


def test_masks_that_are_not_ours_are_never_replaced(clip, tmp_path):
    out = tmp_path / "data"
    (out / "masks").mkdir(parents=True)
    write_mask(out / "masks" / "frame0.png", np.ones((H, W), int))
    with pytest.raises(FileExistsError, match=r"masks but no summary\.json"):
        write_results(open_video(clip), no_work, out, overwrite=True, progress=False)
    assert files_in(out) == ["masks", "masks/frame0.png"]


def test_results_do_not_go_where_they_would_be_frames_or_their_own_source(clip, film, tmp_path):
    with pytest.raises(ValueError, match=r"sheet\.png would be one of them"):
        write_results(open_video(clip), no_work, clip, progress=False)
    write_results(open_video(clip), segmenter, clip / "out", formats="png,mp4", progress=False)
    assert len(open_video(clip).frames) == FRAMES
    for source in ("overlay.mp4", "masks", "masks.mp4"):
        with pytest.raises(ValueError, match="overwritten while it is read"):
            write_results(open_video(clip / "out" / source), no_work, clip / "out", overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        write_results(open_video(clip), no_work, film, progress=False)


def test_a_place_that_cannot_be_written_is_an_error_before_any_work(clip, tmp_path, monkeypatch):
    fake_systems(monkeypatch, asked=(asked := []))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Nothing can be written to .*file/out"):
        segment_to_folder(clip, tmp_path / "file" / "out", progress=False)
    with pytest.raises(OSError, match="Nothing can be written to /proc/jaxvos"):
        segment_to_folder(clip, "/proc/jaxvos", progress=False)
    with pytest.raises(ValueError, match="threshold is 50"):
        segment_to_folder(clip, tmp_path / "out", threshold=50, progress=False)
    assert asked == []


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_that_stops_in_the_middle_leaves_what_was_there(stop, earlier, clip, tmp_path):
    def stopping(video):
        yield from (scores for _, scores in zip(range(5), segmenter(video), strict=False))
        raise stop("in the middle")

    out = tmp_path / "out"
    if earlier:
        write_results(open_video(clip), segmenter, out, progress=False)
    before = files_in(tmp_path)
    with pytest.raises(stop, match="in the middle"):
        write_results(
            open_video(clip), stopping, out, formats=tuple(MASKS), overwrite=True, progress=False
        )
    assert files_in(tmp_path) == before


def test_an_exchange_that_fails_half_way_is_taken_back(clip, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_results(open_video(clip), segmenter, out, progress=False)
    before = {name: (out / name).stat().st_ino for name in files_in(out)}
    rename = os.rename

    def failing(source, target):
        if source.parent.name.startswith(".out.partial") and source.name == "sheet.png":
            monkeypatch.setattr(os, "rename", rename)
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        write_results(open_video(clip), segmenter, out, overwrite=True, progress=False)
    assert {name: (out / name).stat().st_ino for name in files_in(out)} == before


SLOW_RUN = """
import sys, time
from jaxvos.programs.segment import write_results
from jaxvos.video import open_video

def slow(video):
    for frame in video.frames:
        yield (frame[..., 0] > 120).astype("float32")
        print("frame", flush=True)
        time.sleep(0.2)

formats = ("png", "rle", "mp4", "coco")
write_results(open_video(sys.argv[1]), slow, sys.argv[2], formats=formats, progress=False)
"""


def test_sigterm_in_the_middle_leaves_nothing(clip, tmp_path):
    command = [sys.executable, "-c", SLOW_RUN, str(clip), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert [run.stdout.readline() for _ in range(3)] == ["frame\n"] * 3
        assert any(name.startswith(".out.partial") for name in os.listdir(tmp_path))
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == ["clip"]


def test_a_handler_of_sigterm_that_is_there_stays(tmp_path):
    def theirs(*_):
        pass

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with whole_folder.whole_folder(tmp_path / "out", ["summary.json"]):
            assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    with whole_folder.whole_folder(tmp_path / "other", ["summary.json"]):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_more_pictures_are_alive_in_a_long_video_than_in_a_short_one(tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Frame(np.ndarray):
        """An array that can be counted: `WeakSet` wants a hash."""

        __hash__ = object.__hash__

    def counted(array):
        array = array.view(Frame)
        alive.add(array)
        return array

    class Endless:
        def __len__(self):
            return 60

        def __getitem__(self, t):
            if t >= 60:
                raise IndexError
            return counted(np.full((H, W, 3), 60 + t, np.uint8))

    def counting(video):
        for frame in video.frames:
            most.append(len(alive))
            yield (np.asarray(frame[..., 0]) > 90).astype(np.float32)

    monkeypatch.setattr(program, "overlay", lambda *args: counted(overlay(*args)))
    write_results(
        Video(Endless()), counting, tmp_path / "out", formats=tuple(MASKS), progress=False
    )
    assert len(most) == 60 and max(most) <= 6


def test_the_progress_bar_tells_frames_per_second(clip, tmp_path, capsys):
    with frames_bar("clip", 4, shown=True) as advance:
        for _ in range(4):
            time.sleep(0.02)
            advance()
    shown = capsys.readouterr().err
    assert "clip" in shown and "4/4" in shown and "frames/s" in shown
    with frames_bar("clip", 4, shown=False) as advance:
        advance()
    assert capsys.readouterr().err == ""


def test_scores_are_smoothed_then_refined(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(3)]
    maps = [np.kron(rng.random((3, 4)), np.ones((8, 8))).astype(np.float32) for _ in frames]
    video = Video(frames)

    def given(_):
        return iter(maps)

    def results(segmenter):
        return np.stack(list(segmenter(video)))

    smooth, refine = smoothed(given), refined(given, "pdb")
    np.testing.assert_array_equal(results(finished(given)), maps)
    np.testing.assert_array_equal(results(finished(given, smooth=True)), results(smooth))
    np.testing.assert_array_equal(results(finished(given, crf="pdb")), results(refine))
    both = results(finished(given, smooth=True, crf="pdb"))
    np.testing.assert_array_equal(both, results(refined(smooth, "pdb")))
    assert (both != results(smoothed(refine))).any()
    of_both = results(finished(given, smooth=True, crf="pdb", objects=True, threshold=0.3))
    np.testing.assert_array_equal(of_both, results(tracked(refined(smooth, "pdb"), threshold=0.3)))
    assert of_both.ndim == 4
    whole = lambda t: np.ones((24, 32), np.uint8)  # noqa: E731
    proposed = results(finished(given, objects=True, proposals=whole))
    np.testing.assert_array_equal(proposed, results(tracked(given, proposals=whole)))
    with pytest.raises(ValueError, match="ask for objects too"):
        finished(given, proposals=whole)


def test_the_flow_that_is_asked_for_reaches_the_segmenter(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(3)]
    video = Video(frames, name="bee")
    given = rng.standard_normal((2, 24, 32, 2)).astype(np.float32)
    for t, field in enumerate(given):
        (tmp_path / "bee").mkdir(exist_ok=True)
        write_flow(tmp_path / "bee" / f"{t:05d}.flo", field)

    def speeds(video):
        for t in range(len(video.frames)):
            yield np.abs(video.flow[min(t, 1)][..., 0]).clip(0, 1)

    def results(flow):
        return np.stack(list(finished(speeds, flow=flow)(video)))

    for folder in (tmp_path, tmp_path / "bee"):  # of all videos, or of this one
        np.testing.assert_array_equal(results(folder)[:2], np.abs(given[..., 0]).clip(0, 1))
    by_dis = np.abs(dis(frames[1], frames[2])[..., 0]).clip(0, 1)
    np.testing.assert_array_equal(results("dis")[1], by_dis)
    system = SimpleNamespace(reads=("flow",))
    assert needed_flow(system, None) == "dis" and needed_flow(system, "folder") == "folder"
    assert needed_flow(SimpleNamespace(reads=()), None) is None


def test_flow_that_nobody_looks_at_is_refused():
    mover, cosnet = systems.get("mover"), systems.get("cosnet")
    with pytest.raises(ValueError, match=r"^Mover looks .*: leave --flow dis .* --set flow=dis"):
        needed_flow(mover, "dis")
    with pytest.raises(ValueError, match=r"^COSNet looks .*: leave --flow F away\.$"):
        needed_flow(cosnet, "F")
    assert needed_flow(cosnet, None) is None
    assert needed_flow(cosnet, "F", objects=True) == "F"  # which are followed along it


def test_objects_of_a_system_without_flow_are_followed_along_what_is_given(tmp_path, monkeypatch):
    loaded = SimpleNamespace(
        name="bright",
        system=SimpleNamespace(reads=()),
        origin="w",
        segmenter=lambda options: lambda video: (f[..., 0] / np.float32(255) for f in video.frames),
    )
    monkeypatch.setattr("jaxvos.systems.load", lambda *_: loaded)
    frames = np.zeros((3, 24, 32, 3), np.uint8)
    frames[:, 6:18, 8:24] = 255
    asked = {"objects": True, "flow": "dis"}
    assert next(segment(Video([*frames]), **asked)).shape == (24, 32, 1)
    told = segment_to_folder(Video([*frames], name="b"), tmp_path / "b", progress=False, **asked)
    assert told["flow"] == "dis"
