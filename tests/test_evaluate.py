"""`jaxvos evaluate`: scores of whole data sets, and what is refused."""

import csv
import json
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxvos.programs import results
from jaxvos.programs.evaluate import evaluate, evaluate_segmenter

FRAMES = {"ant": 5, "bee": 9}


def square(t, size=(24, 32), shift=0):
    mask = np.zeros(size, np.uint8)
    mask[6 + t : 14 + t, 8 + shift : 18 + shift] = 1
    return mask


def write(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


@pytest.fixture
def root(tmp_path):
    """A data set of two sequences, in which a white square walks down on black."""
    root = tmp_path / "data"
    for name, count in FRAMES.items():
        for t in range(count):
            picture = np.repeat(255 * square(t)[..., None], 3, axis=-1)
            write(root / f"JPEGImages/480p/{name}/{t:05d}.png", picture)
            write(root / f"Annotations/480p/{name}/{t:05d}.png", 255 * square(t))
    return root


@pytest.fixture
def predictions(tmp_path):
    """Masks for it that are right in ant and half beside the square in bee."""
    folder = tmp_path / "predictions"
    for name, count in FRAMES.items():
        for t in range(count):
            write(folder / name / f"{t:05d}.png", square(t, shift=5 * (name == "bee")))
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["osvos", "rvos"])
def test_real_predictions_score_as_in_the_original_evaluator(shared_data, tmp_path, method):
    reference = json.loads((shared_data / f"metrics/davis16_{method}.json").read_text())
    summary = evaluate(
        shared_data / "data/davis16_dev",
        predictions=shared_data / "metrics/predictions" / method,
        out=tmp_path,
        workers=2,
        progress=False,
    )

    def same(numbers, expected):
        for measure in "JF":
            for number, value in numbers[measure].items():
                assert abs(value - expected[f"{measure}_{number}"]) < 1e-9, (measure, number)

    same(summary, reference["mean_over_sequences"])
    assert list(summary["per_sequence"]) == list(reference["sequences"])
    for name, expected in reference["sequences"].items():
        same(summary["per_sequence"][name], expected)
        assert summary["per_sequence"][name]["frames"] == expected["n_frames"] - 2
    pooled = reference["mean_over_all_pooled_frames_1_to_N-2"]
    assert summary["frame_average"] == pytest.approx(pooled, abs=1e-9)
    assert (summary["frames"], summary["sequences"]) == (574, 10)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    per_frame = rows(tmp_path / "per_frame.csv")
    for name, expected in reference["sequences"].items():
        for measure in "JF":
            values = [float(row[measure]) for row in per_frame if row["sequence"] == name]
            np.testing.assert_allclose(
                values, expected[f"{measure}_all_frames"][1:-1], atol=1e-9, rtol=0
            )


def test_sequences_weigh_the_same_however_long_and_frames_beside_them(root, predictions):
    summary = evaluate(root, predictions=predictions, workers=1, progress=False)
    half = 5 / 15  # overlap over union of squares 10 wide, moved by 5
    assert summary["per_sequence"]["ant"]["J"]["mean"] == 1
    assert summary["per_sequence"]["bee"]["J"]["mean"] == pytest.approx(half)
    assert summary["J"]["mean"] == pytest.approx((1 + half) / 2)
    assert summary["frame_average"]["J"] == pytest.approx((3 * 1 + 7 * half) / 10)
    assert summary["J"]["recall"] == 0.5
    assert (summary["frames"], summary["sequences"]) == (10, 2)


def test_workers_change_nothing(root, predictions, tmp_path):
    for workers in (0, 2):
        out = tmp_path / str(workers)
        evaluate(root, predictions=predictions, out=out, workers=workers, progress=False)
    for name in results.RESULTS:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_first_and_the_last_frame_do_not_count(root, predictions):
    shutil.rmtree(predictions / "bee")
    for t in (0, 4):
        write(predictions / f"ant/{t:05d}.png", np.zeros((24, 32), np.uint8))
    summary = evaluate(root, predictions=predictions, sequences=["ant"], progress=False)
    assert summary["J"]["mean"] == summary["F"]["mean"] == 1
    for t in (0, 4):
        (predictions / f"ant/{t:05d}.png").unlink()
    assert evaluate(root, predictions=predictions, sequences=["ant"], progress=False) == summary


def test_the_files_and_the_table_hold_the_numbers(root, predictions, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    summary = evaluate(root, predictions=predictions, out=out, workers=1)
    assert sorted(path.name for path in out.iterdir()) == sorted(results.RESULTS)
    per_frame = rows(out / "per_frame.csv")
    assert [row["frame"] for row in per_frame if row["sequence"] == "ant"] == [
        "00001",
        "00002",
        "00003",
    ]
    bee = rows(out / "per_sequence.csv")[1]
    assert (bee["sequence"], bee["frames"]) == ("bee", "7")
    assert float(bee["F_decay"]) == summary["per_sequence"]["bee"]["F"]["decay"]
    shown = capsys.readouterr().out
    for text in ("ant", "mean over sequences", f"{summary['F']['mean']:.4f}", "davis16", "last"):
        assert text in shown, text
    assert f"{summary['frame_average']['J']:.4f}" in shown.split("mean over frames")[1]


def test_results_are_not_overwritten_unasked(root, predictions, tmp_path):
    first = evaluate(root, predictions=predictions, out=tmp_path, workers=1, progress=False)
    again = {"predictions": predictions, "out": tmp_path, "workers": 1, "progress": False}
    write(predictions / "ant/00001.png", square(0))
    with pytest.raises(FileExistsError, match=r"per_frame\.csv"):
        evaluate(root, **again)
    assert json.loads((tmp_path / "summary.json").read_text()) == first
    assert evaluate(root, **again, overwrite=True)["J"]["mean"] < first["J"]["mean"]


def test_a_disk_that_fills_up_leaves_the_old_results_and_no_halves(
    root, predictions, tmp_path, monkeypatch
):
    settings = {
        "predictions": predictions,
        "out": tmp_path / "out",
        "workers": 1,
        "progress": False,
    }
    evaluate(root, **settings)
    before = {path.name: path.read_bytes() for path in settings["out"].iterdir()}
    write(predictions / "ant/00001.png", square(0))
    real, written = results.Path.write_text, []

    def fills_up(path, text, **keywords):
        written.append(path)
        if len(written) == 3:
            real(path, text[:10], **keywords)
            raise OSError(28, "No space left on device")
        return real(path, text, **keywords)

    monkeypatch.setattr(results.Path, "write_text", fills_up)
    with pytest.raises(OSError, match="No space"):
        evaluate(root, **settings, overwrite=True)
    assert len(written) == 3
    assert {path.name: path.read_bytes() for path in settings["out"].iterdir()} == before


def lost_frame(root, folder):
    (folder / "bee/00003.png").unlink()


def unknown_frame(root, folder):
    write(folder / "bee/overlay.png", square(0))


def unknown_sequence(root, folder):
    write(folder / "cat/00000.png", square(0))


def other_size(root, folder):
    write(folder / "bee/00003.png", square(3, size=(24, 31)))


def soft(root, folder):
    write(folder / "bee/00003.png", np.tile(np.arange(32, dtype=np.uint8), (24, 1)))


def no_annotation(root, folder):
    (root / "Annotations/480p/bee/00003.png").unlink()


def too_short(root, folder):
    for kind in (root / "JPEGImages/480p", root / "Annotations/480p", folder):
        for t in range(2, FRAMES["bee"]):
            (kind / f"bee/{t:05d}.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "workers", "words"),
    [
        (lost_frame, 1, r"1 of the masks.*missing: .*bee/00003\.png.*Write a mask for"),
        (unknown_frame, 1, r"does not have: .*bee/overlay\.png"),
        (unknown_sequence, 1, r"not scored here: cat\. Choose"),
        (no_annotation, 1, r"without an annotation.*bee/00003"),
        (too_short, 1, r"bee has 2 frames.*3 at least"),
        (other_size, 1, r"bee/00003\.png is 31 x 24 pixels, .* is 32 x 24 pixels.*resize"),
        (soft, 1, r"bee/00003\.png holds .*soft map.*Threshold"),
        (soft, 2, r"bee/00003\.png holds .*soft map.*Threshold"),
    ],
)
def test_what_cannot_be_scored_is_named_and_nothing_written(
    root, predictions, tmp_path, spoil, workers, words
):
    spoil(root, predictions)
    out = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        evaluate(root, predictions=predictions, out=out, workers=workers, progress=False)
    assert not out.exists() or not list(out.iterdir())


def test_sequences_chosen_by_name_may_stand_beside_others(root, predictions):
    summary = evaluate(root, predictions=predictions, sequences=["bee"], progress=False)
    assert list(summary["per_sequence"]) == ["bee"]


def test_either_predictions_or_a_system_is_evaluated(root, predictions):
    with pytest.raises(ValueError, match="Nothing to evaluate"):
        evaluate(root)
    with pytest.raises(ValueError, match=r"No weights of 'cosnet' are given"):
        evaluate(root, system="cosnet")
    with pytest.raises(ValueError, match="not both"):
        evaluate(root, predictions=predictions, system="cosnet")
    with pytest.raises(ValueError, match=r"'davis71'\. There are: davis16"):
        evaluate(root, predictions=predictions, protocol="davis71")
    with pytest.raises(ValueError, match="are not a folder"):
        evaluate(root, predictions=predictions / "none")
    with pytest.raises(ValueError, match="workers"):
        evaluate(root, predictions=predictions, workers=-1)


def test_workers_do_without_jax():
    program = "import sys, jaxvos.programs.evaluate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.decode().split()}
    assert "numpy" in loaded and not loaded & {"jax", "flax", "cv2", "scipy", "av"}


def test_a_script_that_forgot_the_guard_is_told_so(root, predictions, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom jaxvos.programs.evaluate import evaluate\n"
        "evaluate(sys.argv[1], predictions=sys.argv[2], workers=2, progress=False)\n"
    )
    command = [sys.executable, str(script), str(root), str(predictions)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr


def brightness(video):
    """A segmenter: what is bright is foreground."""
    for frame in video.frames:
        yield frame.mean(-1).astype(np.float32) / 255


def test_a_segmenters_masks_are_scored_and_written(root, tmp_path):
    summary = evaluate_segmenter(
        root, brightness, out=tmp_path, progress=False, origin={"who": "it"}
    )
    assert summary["J"]["mean"] == summary["F"]["mean"] == 1
    assert summary["who"] == "it" and summary["frames"] == 10
    for name, count in FRAMES.items():
        for t in range(count):
            with Image.open(tmp_path / f"masks/{name}/{t:05d}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture), square(t))
    read = evaluate(root, predictions=tmp_path / "masks", workers=1, progress=False)
    assert read["per_sequence"] == summary["per_sequence"]


def test_a_system_is_run_with_its_weights_and_the_options_given(root, tmp_path, monkeypatch):
    asked = []

    class Loaded:
        name = "brightness"
        system = SimpleNamespace(reads=())
        origin = None

        def segmenter(self, options):
            asked.append(options)
            return brightness

    def load(system, weights):
        asked.append((system, weights))
        Loaded.origin = weights
        return Loaded()

    monkeypatch.setattr("jaxvos.systems.load", load)
    summary = evaluate(
        root, system="brightness", weights="w.safetensors", options={"a": 1}, progress=False
    )
    assert asked == [("brightness", "w.safetensors"), {"a": 1}]
    assert summary["J"]["mean"] == 1
    assert (summary["system"], summary["weights"]) == ("brightness", "w.safetensors")
    assert summary["options"] == {"a": 1}


def test_a_segmenter_sees_every_frame_in_order_and_the_name(root):
    seen = {}

    def watches(video):
        seen[video.name] = [int(np.argmax(frame[..., 0].any(1))) for frame in video.frames]
        yield from brightness(video)

    evaluate_segmenter(root, watches, progress=False)
    assert seen == {name: list(range(6, 6 + count)) for name, count in FRAMES.items()}


def test_a_segmenter_is_scored_at_the_threshold(root):
    def faint(video):
        yield from (0.4 * scores for scores in brightness(video))

    assert evaluate_segmenter(root, faint, progress=False)["J"]["mean"] == 0
    assert evaluate_segmenter(root, faint, threshold=0.3, progress=False)["J"]["mean"] == 1
    with pytest.raises(ValueError, match="threshold"):
        evaluate_segmenter(root, faint, threshold=127, progress=False)


def test_of_several_objects_any_is_foreground(root):
    def halves(video):
        for scores in brightness(video):
            left = np.arange(scores.shape[1]) < 12
            yield np.stack([scores * left, scores * ~left], axis=-1)

    assert evaluate_segmenter(root, halves, progress=False)["J"]["mean"] == 1


def test_masks_of_another_run_are_not_overwritten_unasked_and_not_mixed(root, tmp_path):
    write(tmp_path / "masks/bee/00008.png", square(0))
    with pytest.raises(FileExistsError, match=r"bee/00008\.png"):
        evaluate_segmenter(root, brightness, out=tmp_path, progress=False)
    evaluate_segmenter(root, brightness, out=tmp_path, progress=False, overwrite=True)

    def breaks(video):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="memory"):
        evaluate_segmenter(root, breaks, out=tmp_path, progress=False, overwrite=True)
    assert not list((tmp_path / "masks").rglob("*.png"))
    assert not [name for name in results.RESULTS if (tmp_path / name).exists()]


def skips(video):
    yield from list(brightness(video))[1:]


def repeats(video):
    yield from [*brightness(video), np.zeros((24, 32), np.float32)]


def fails(video):
    yield from (scores * np.nan for scores in brightness(video))


def shrinks(video):
    yield from (scores[::2] for scores in brightness(video))


@pytest.mark.parametrize(
    ("segmenter", "words"),
    [
        (skips, "ant has 5 frames, the system made 4"),
        (repeats, "ant has 5 frames, the system made 6"),
        (fails, "ant, frame 0, are not finite"),
        (shrinks, r"ant/00001\.png is 32 x 12 pixels"),
    ],
)
def test_a_segmenter_that_breaks_the_contract_is_refused(root, tmp_path, segmenter, words):
    with pytest.raises(ValueError, match=words):
        evaluate_segmenter(root, segmenter, out=tmp_path, progress=False)
    assert not (tmp_path / "summary.json").exists()


def test_a_report_is_written_beside_the_results(root, predictions, tmp_path):
    out = tmp_path / "out"
    summary = evaluate(root, predictions=predictions, out=out, report=True, progress=False)
    page = (out / "report.html").read_text()
    assert f"{summary['J']['mean']:.4f}"[:5] in page and page.count("data:image/webp") >= 10
    with pytest.raises(FileExistsError, match=r"report\.html"):
        (out / "summary.json").unlink()
        evaluate(root, predictions=predictions, out=out, report=True, progress=False)
    with pytest.raises(ValueError, match="--out"):
        evaluate(root, predictions=predictions, report=True)


def test_what_works_on_scores_needs_a_system(root, predictions):
    for option in ({"crf": "pdb"}, {"smooth": True}, {"objects": True}):
        with pytest.raises(ValueError, match=r"give --weights with --crf, --smooth or --objects"):
            evaluate(root, predictions=predictions, **option)


def test_the_objects_of_a_foreground_are_scored_with_a_crf_and_without(root, tmp_path, monkeypatch):
    for path in root.glob("Annotations/480p/*/*.png"):  # the left and right halves are two objects
        mask = np.array(Image.open(path))
        two = np.where(mask > 0, 1 + (np.arange(32) >= 13), 0).astype(np.uint8)
        two[:, 13:] = np.roll(two[:, 13:], 8, axis=1)  # that lie apart
        write(path, two)
        picture = np.repeat(255 * np.uint8(two > 0)[..., None], 3, axis=-1)
        write(root / "JPEGImages/480p" / path.relative_to(root / "Annotations/480p"), picture)

    class Loaded:
        name = "bright"
        system = SimpleNamespace(reads=())
        origin = "w.safetensors"

        def segmenter(self, options):
            return brightness

    monkeypatch.setattr("jaxvos.systems.load", lambda *_: Loaded())
    score = partial(
        evaluate,
        root,
        protocol="davis17-unsup",
        weights="w",
        crf="pdb",
        progress=False,
    )
    with pytest.raises(ValueError, match=r"pdb is for one foreground, .* \(--objects\)"):
        score()
    summary = score(objects=True, out=tmp_path / "out")
    assert summary["J&F"] == 1 and summary["refined"]["J&F"] == 1
    for folder, crf in (("", None), ("crf-pdb", "pdb")):
        place = tmp_path / "out" / folder
        assert json.loads((place / "summary.json").read_text()).get("crf") == crf
        assert {*np.unique(np.array(Image.open(place / "masks/ant/00002.png")))} == {0, 1, 2}
    for path in (tmp_path / "out").glob("*.*"):
        path.unlink()
    with pytest.raises(FileExistsError, match="crf-pdb"):
        score(objects=True, out=tmp_path / "out")
    proposals = tmp_path / "proposals"
    for path in root.glob("Annotations/480p/*/*.png"):
        one = (np.array(Image.open(path)) > 0).astype(np.uint8)
        write(proposals / path.parent.name / path.name, one)
    told = score(objects=True, crf=None, proposals=proposals, flow="dis")  # to follow them along
    assert told["J&F"] < 1  # one, so they say
    with pytest.raises(ValueError, match="ask for objects too"):
        score(crf=None, proposals=proposals)
