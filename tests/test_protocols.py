"""The protocols: which frames count, what is merged, what is averaged, and what is mended."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxvos.metrics.protocols import PROTOCOLS
from jaxvos.metrics.scoring import Options
from jaxvos.programs import results
from jaxvos.programs.evaluate import evaluate, evaluate_segmenter

SIZE = (24, 32)


def square(left=8, label=1, width=10):
    mask = np.zeros(SIZE, np.uint8)
    mask[6:14, left : left + width] = label
    return mask


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def add(root, name, truths, ending=".png", **predictions):
    """A sequence of ROOT/data whose truths and predictions (by folder) are given by frame."""
    count = 1 + max([*truths, *(t for frames in predictions.values() for t in frames)])
    for t in range(count):
        write(root / "data/JPEGImages" / name / f"{t:05d}.jpg", np.zeros((*SIZE, 3), np.uint8))
    for t, truth in truths.items():
        write(root / "data/Annotations" / name / f"{t:05d}{ending}", truth)
    for folder, frames in predictions.items():
        for t, mask in frames.items():
            write(root / folder / name / f"{t:05d}.png", mask)


def scored(root, protocol, folder="masks", out=None, **options):
    return evaluate(
        root / "data",
        protocol=protocol,
        predictions=root / folder,
        out=out,
        workers=1,
        protocol_options=Options(**options),
        progress=False,
    )


def every(count, mask):
    return {t: mask for t in range(count)}


HALF = 5 / 15  # overlap over union of squares 10 wide, moved by 5


# --- FBMS and YouTube-Objects -------------------------------------------------------------------


def test_fbms_scores_annotated_frames_of_merged_objects_without_the_empty_ones(tmp_path):
    both = square() + square(20, 7)
    truths = {0: both, 2: square(8, 3), 4: np.zeros(SIZE, np.uint8)}
    add(tmp_path, "cars1", truths, masks=every(5, square(13)) | {0: (both > 0) * np.uint8(255)})
    summary = scored(tmp_path, "fbms")
    assert summary["J"]["mean"] == pytest.approx((1 + HALF) / 2)
    assert summary["per_sequence"]["cars1"]["frames"] == 2
    assert summary["per_sequence"]["cars1"]["frames_without_object"] == 1
    assert "F" not in summary
    kept = scored(tmp_path, "fbms", keep_empty=True)
    assert kept["J"]["mean"] == pytest.approx((1 + HALF + 0) / 3)


def test_white_is_the_background_of_a_colour_mask(tmp_path):
    colours = np.full((*SIZE, 3), 255, np.uint8)
    colours[square() > 0] = (0, 0, 255)
    colours[square(20) > 0] = (0, 0, 0)
    add(tmp_path, "camel01", {0: colours}, ".ppm", masks={0: square() | square(20)})
    assert scored(tmp_path, "fbms")["J"]["mean"] == 1
    write(tmp_path / "data/Annotations/camel01/00000.ppm", colours // 2)
    with pytest.raises(ValueError, match=r"00000\.ppm has no white pixel"):
        scored(tmp_path, "fbms")


def test_grey_masks_have_a_black_background(tmp_path):
    add(tmp_path, "tennis", {0: square(8, 127)}, ".pgm", masks={0: square()})
    assert scored(tmp_path, "fbms")["J"]["mean"] == 1


def test_a_sequence_whose_annotations_are_all_empty_cannot_be_scored(tmp_path):
    add(tmp_path, "void", every(3, np.zeros(SIZE, np.uint8)), masks=every(3, square()))
    with pytest.raises(ValueError, match=r"annotation of void is empty.*keep-empty"):
        scored(tmp_path, "fbms")


def test_youtube_objects_average_categories_not_videos(tmp_path):
    add(tmp_path, "cat/0001", {0: square()}, masks={0: square()})
    add(tmp_path, "cat/0002", {0: square(), 2: square()}, masks=every(3, square()))
    add(tmp_path, "dog/0001", {1: square()}, masks=every(2, square(13)))
    summary = scored(tmp_path, "youtube-objects", out=tmp_path / "out")
    assert summary["J"]["mean"] == pytest.approx((1 + HALF) / 2)
    assert summary["sequence_average"]["J"] == pytest.approx((1 + 1 + HALF) / 3)
    assert summary["frame_average"]["J"] == pytest.approx((3 + HALF) / 4)
    assert summary["categories"] == {
        "cat": {"sequences": 2, "J": 1.0},
        "dog": {"sequences": 1, "J": pytest.approx(HALF)},
    }
    assert (tmp_path / "out/per_sequence.csv").read_text().splitlines()[3].startswith("dog/0001,1,")


def test_jpeg_labels_are_cut_in_the_middle(tmp_path):
    blocks = np.zeros((32, 32), np.uint8)
    blocks[8:24, 8:24] = 255
    add(tmp_path, "cow/1", {0: blocks}, ".jpg", masks={0: (blocks > 0).astype(np.uint8)})
    noisy = np.where(blocks, 200, 60).astype(np.uint8)
    write(tmp_path / "data/Annotations/cow/1/00000.jpg", noisy)
    assert scored(tmp_path, "youtube-objects")["J"]["mean"] == 1


# --- DAVIS 2017 ---------------------------------------------------------------------------------


def two(first=1, second=2):
    return square(2, first) + square(18, second)


def test_semi_supervised_objects_keep_their_labels_and_weigh_the_same(tmp_path):
    void = two()
    void[0] = 255
    add(tmp_path, "ant", every(4, void), masks=every(4, two()))
    add(tmp_path, "bee", every(6, square()), masks=every(6, square(13)))
    summary = scored(tmp_path, "davis17-semi", out=tmp_path / "out")
    assert summary["objects"] == 3
    assert summary["J"]["mean"] == pytest.approx((2 + HALF) / 3)
    assert summary["sequence_average"]["J"] == pytest.approx((1 + HALF) / 2)
    assert summary["frame_average"]["J"] == pytest.approx((2 + 2 + 4 * HALF) / 8)
    assert summary["J&F"] == pytest.approx((summary["J"]["mean"] + summary["F"]["mean"]) / 2)
    rows = (tmp_path / "out/per_frame.csv").read_text().splitlines()
    assert rows[:4] == [
        "sequence,object,frame,J,F",
        "ant,1,00001,1.0,1.0",
        "ant,1,00002,1.0,1.0",
        "ant,2,00001,1.0,1.0",
    ]
    add(tmp_path, "ant", every(4, two()), masks=every(4, two(2, 1)))
    assert scored(tmp_path, "davis17-semi")["per_sequence"]["ant"]["J"]["mean"] == 0


def test_more_labels_than_objects_are_refused_or_dropped_when_told_to(tmp_path):
    add(tmp_path, "ant", every(3, square()), masks=every(3, square() + square(20, 4)))
    with pytest.raises(
        ValueError, match=r"ant/00001\.png has the labels 1, 4; 1 to 1.*--fix labels"
    ):
        scored(tmp_path, "davis17-semi")
    summary = scored(tmp_path, "davis17-semi", fix=("labels",))
    assert summary["J"]["mean"] == 1 and summary["fixed"] == {"labels": 1}


def test_a_mask_of_0_and_255_is_numbered_when_told_to(tmp_path):
    add(tmp_path, "ant", every(3, square()), masks=every(3, square(8, 255)))
    for protocol in ("davis17-semi", "davis17-unsup"):
        with pytest.raises(ValueError, match=r"labels 255; 1 to (1|20) are expected"):
            scored(tmp_path, protocol)
        assert scored(tmp_path, protocol, fix=("labels",))["J"]["mean"] == 1


def test_unsupervised_objects_get_the_proposal_that_fits_best(tmp_path):
    masks = every(3, two(5, 2) + square(8, 0) + square(28, 7, width=2))
    add(tmp_path, "ant", every(3, two()), masks=masks)
    entry = scored(tmp_path, "davis17-unsup")["per_sequence"]["ant"]
    assert (entry["J"]["mean"], entry["assigned"], entry["proposals"]) == (1, [5, 2], 7)
    assert entry["frames"] == 3


def test_an_empty_proposal_that_nobody_made_is_not_assigned(tmp_path):
    truths = every(4, np.zeros(SIZE, np.uint8)) | {0: square()}
    add(tmp_path, "ant", truths, masks=every(4, square(13)))
    entry = scored(tmp_path, "davis17-unsup")["per_sequence"]["ant"]
    assert entry["assigned"] == [1] and entry["J"]["mean"] == pytest.approx(HALF / 4)


def test_the_unsupervised_annotations_are_taken_where_there_are_some(tmp_path):
    add(tmp_path, "ant", every(3, square(20)), masks=every(3, square()))
    for t in range(3):
        write(tmp_path / f"data/Annotations_unsupervised/ant/{t:05d}.png", square())
    assert scored(tmp_path, "davis17-unsup")["J"]["mean"] == 1
    assert scored(tmp_path, "davis17-semi")["J"]["mean"] == 0


def test_without_an_object_in_the_first_annotation_there_is_nothing_to_score(tmp_path):
    truths = every(3, square()) | {0: np.zeros(SIZE, np.uint8)}
    add(tmp_path, "ant", truths, masks=every(3, square()))
    with pytest.raises(ValueError, match="first annotation holds no object"):
        scored(tmp_path, "davis17-unsup")


def test_real_proposals_score_as_in_the_original_evaluator(shared_data, tmp_path):
    given = shared_data / "metrics/davis17_unsup"
    reference = json.loads((given / "result.json").read_text())["global_result"]
    for mask in (given / "gt").rglob("*.png"):
        name, frame = mask.parent.name, f"{mask.stem}.jpg"
        for kind, source in (
            ("JPEGImages", shared_data / "data/davis16_dev/JPEGImages/480p" / name / frame),
            ("Annotations_unsupervised", mask),
        ):
            (tmp_path / kind / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / kind / name / source.name).symlink_to(source)
    summary = evaluate(
        tmp_path,
        protocol="davis17-unsup",
        predictions=given / "proposals",
        workers=1,
        progress=False,
    )
    found = results.numbers(summary)
    assert set(reference) == {"J&F-Mean"} | {
        f"{measure}-{number}" for measure in "JF" for number in ("Mean", "Recall", "Decay")
    }
    for key, value in reference.items():
        measure, _, number = key.partition("-")
        ours = found["J&F" if measure == "J&F" else f"{measure}_{number.lower()}"]
        assert abs(ours - value) < 1e-9, key


# --- video salient object detection -------------------------------------------------------------


def test_saliency_is_averaged_by_video_with_the_frames_beside(tmp_path):
    truth = square(8, 255)
    add(tmp_path, "boat", {0: truth, 2: truth}, maps=every(3, truth))
    add(tmp_path, "car", {0: truth}, maps={0: 255 - truth})
    summary = scored(tmp_path, "vsod", "maps", out=tmp_path / "out")
    assert summary["MAE"] == pytest.approx(0.5)
    assert summary["frame_average"]["MAE"] == pytest.approx(1 / 3)
    boat = summary["per_sequence"]["boat"]
    assert (boat["MAE"], boat["F_adaptive"], boat["frames"]) == (0, 1, 2)
    assert boat["S"] == pytest.approx(1, abs=1e-6)
    assert summary["F_max"] < summary["F_max_per_picture"] + 1e-9
    header = (tmp_path / "out/per_frame.csv").read_text().splitlines()[0]
    assert header == "sequence,frame,MAE,S,F_adaptive,E_adaptive"


def test_maps_are_stretched_unless_told_otherwise(tmp_path):
    truth = square(8, 255)
    add(tmp_path, "boat", {0: truth}, maps={0: np.where(truth, 128, 64).astype(np.uint8)})
    assert scored(tmp_path, "vsod", "maps")["MAE"] == 0
    plain = scored(tmp_path, "vsod", "maps", normalize=False)
    share = (truth > 0).mean()
    assert plain["MAE"] == pytest.approx(share * (127 / 255) + (1 - share) * 64 / 255)
    assert plain["protocol_options"]["normalize"] is False


def test_maps_of_16_bits_are_rounded_and_colours_refused(tmp_path):
    truth = square(8, 255)
    add(tmp_path, "boat", {0: truth}, maps={0: truth.astype(np.uint16) * 257})
    assert scored(tmp_path, "vsod", "maps", normalize=False)["MAE"] == 0
    write(tmp_path / "maps/boat/00000.png", np.repeat(truth[..., None], 3, axis=-1))
    with pytest.raises(ValueError, match=r"00000\.png is no soft map but RGB"):
        scored(tmp_path, "vsod", "maps")


def test_annotations_of_0_and_1_are_found_out(tmp_path):
    add(tmp_path, "boat", {0: square()}, maps={0: square(8, 255)})
    with pytest.raises(ValueError, match=r"no value above 128 but 1: these are labels.*--fix"):
        scored(tmp_path, "vsod", "maps")
    assert scored(tmp_path, "vsod", "maps", fix=("labels",))["MAE"] == 0


# --- faults and fixes ---------------------------------------------------------------------------


def lost(root):
    (root / "masks/ant/00001.png").unlink()


def larger(root):
    write(root / "masks/ant/00001.png", square().repeat(2, 0).repeat(2, 1))


def soft(root):
    grey = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8)
    write(root / "masks/ant/00001.png", np.where(square(), 255 - grey, grey))


def coloured(root):
    write(root / "masks/ant/00001.png", np.repeat(square(8, 255)[..., None], 3, axis=-1))


@pytest.mark.parametrize(
    ("spoil", "fix", "words", "J"),
    [
        (lost, "missing", "1 of the masks to score are missing", 0.5),
        (larger, "size", "is 64 x 48 pixels, its annotation", 1),
        (soft, "threshold", "more than 22 different values", 1),
        (coloured, "threshold", "no labels but RGB", 1),
    ],
)
def test_a_fault_is_named_and_mended_only_when_told_to(tmp_path, spoil, fix, words, J):
    add(tmp_path, "ant", every(4, square()), masks=every(4, square()))
    spoil(tmp_path)
    with pytest.raises(ValueError, match=f"{words}.*--fix {fix}"):
        scored(tmp_path, "davis16")
    summary = scored(tmp_path, "davis16", fix=(fix,))
    assert summary["J"]["mean"] == J and summary["fixed"] == {fix: 1}


def test_a_wrong_folder_is_not_taken_for_many_missing_masks(tmp_path):
    add(tmp_path, "ant", every(4, square()), other=every(4, square()))
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="no mask of any sequence"):
        scored(tmp_path, "davis16", fix=("missing",))


def test_unknown_fixes_and_protocols_are_named(tmp_path):
    add(tmp_path, "ant", every(4, square()), masks=every(4, square()))
    with pytest.raises(ValueError, match=r"No fix is called all\. There are: missing, size"):
        scored(tmp_path, "davis16", fix=("all",))
    with pytest.raises(ValueError, match=r"'davis18'\. There are: davis16, davis17-semi"):
        scored(tmp_path, "davis18")


# --- stability, segmenters, results -------------------------------------------------------------


def test_stability_is_of_the_prediction_and_over_the_stable_sequences(tmp_path):
    for name in ("blackswan", "libby"):
        still = every(6, square()) if name == "blackswan" else {t: square(t) for t in range(6)}
        add(tmp_path, name, every(6, square()), masks=still)
    assert "T" not in scored(tmp_path, "davis16")
    summary = scored(tmp_path, "davis16", stability=True)
    assert summary["T_sequences"] == ["blackswan"]
    assert summary["T"] == summary["per_sequence"]["blackswan"]["T"] == pytest.approx(0, abs=1e-9)


def objects(video):
    """A segmenter of two objects."""
    for _ in video.frames:
        yield np.stack([square(2), square(18)], axis=-1).astype(np.float32)


def test_a_segmenter_is_scored_by_every_protocol(tmp_path):
    add(tmp_path, "ant", every(3, two()))
    for protocol in ("davis16", "davis17-semi", "davis17-unsup", "fbms", "youtube-objects"):
        summary = evaluate_segmenter(
            tmp_path / "data", objects, protocol=protocol, out=tmp_path / protocol, progress=False
        )
        assert summary["J"]["mean"] == 1, protocol
    add(tmp_path, "ant", every(3, two(255, 255)))
    summary = evaluate_segmenter(
        tmp_path / "data", objects, protocol="vsod", out=tmp_path / "vsod", progress=False
    )
    assert summary["MAE"] == 0
    assert Image.open(tmp_path / "vsod/masks/ant/00000.png").mode == "L"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_a_table_and_files(tmp_path, protocol, capsys):
    add(tmp_path, "ant/1", every(4, two(255, 255) if protocol == "vsod" else two()))
    if protocol.startswith("davis"):
        (tmp_path / "data/JPEGImages/ant/1").rename(tmp_path / "data/JPEGImages/bee")
        (tmp_path / "data/Annotations/ant/1").rename(tmp_path / "data/Annotations/bee")
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / "data" / kind / "ant").rmdir()
    summary = evaluate_segmenter(
        tmp_path / "data", objects, protocol=protocol, out=tmp_path / "out"
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{protocol}:" in shown and f"mean over {PROTOCOLS[protocol].unit}" in shown
    key, value = next(iter(results.numbers(summary).items()))
    assert f"{value:.4f}" in shown and results.headline(summary).startswith(f"{protocol}: ")
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    assert key in summary or key.split("_")[0] in summary


def test_refined_masks_are_scored_beside_the_raw_ones(tmp_path, capsys):
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[square() > 0] = (250, 40, 40)
    add(tmp_path, "ant", every(3, square()))
    for t in range(3):
        write(tmp_path / f"data/JPEGImages/ant/{t:05d}.png", frame)
        (tmp_path / f"data/JPEGImages/ant/{t:05d}.jpg").unlink()

    def rough(video):
        for _ in video.frames:
            scores = 0.2 + 0.6 * square().astype(np.float32)
            scores[8:12, 8:12] = 0.45
            yield scores

    out = tmp_path / "out"
    summary = evaluate_segmenter(tmp_path / "data", rough, crf="pdb", out=out)
    assert summary["J"]["mean"] == pytest.approx(64 / 80)
    assert summary["refined"]["J"]["mean"] == 1 and summary["refined"]["crf"] == "pdb"
    assert json.loads((out / "crf-pdb/summary.json").read_text())["J"]["mean"] == 1
    assert "refined" not in json.loads((out / "summary.json").read_text())
    shown = capsys.readouterr().out
    assert "davis16, CRF pdb:" in shown and "davis16:" in shown
    with pytest.raises(ValueError, match=r"'pdp'\. There are: pdb"):
        evaluate_segmenter(tmp_path / "data", rough, crf="pdp", progress=False)
    with pytest.raises(ValueError, match="for one foreground, and this protocol scores objects"):
        evaluate_segmenter(
            tmp_path / "data", rough, crf="pdb", protocol="davis17-unsup", progress=False
        )
