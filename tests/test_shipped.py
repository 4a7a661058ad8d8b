"""The weights that come with the library: what they are, and that they still find what they did."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

import jaxvos
from data_pipelines.procedural import WILD, clip
from jaxvos.checkpoints import read_weights, shipped
from jaxvos.colour_guided import Looked, matched, settled
from jaxvos.film_writer import write_video
from jaxvos.metrics.davis import region_similarity
from jaxvos.programs.evaluate import evaluate
from jaxvos.programs.segment import segment_to_folder
from jaxvos.refiner import refiner_of, refining
from jaxvos.systems import SHIPPED, load
from jaxvos.typing import Video
from jaxvos.video import write_mask, write_png

CLIPS = {0: 0.859, 3: 0.943}
"""Made-up clips of seed 9, which training has not seen -> mean J of the inner frames."""
MENDED = 0.749, 0.775
"""J of scores, and of what the refiner makes of them."""
CHANGE = 0.0367
"""By how much it changes them, the mean."""


def test_they_are_small_and_say_where_they_come_from():
    files = [shipped(name) for name in ("mover", "mover_refiner")]
    card = (files[0].parent / "README.md").read_text()
    assert "made-up video" in card and load().name == SHIPPED == "mover"
    assert sorted(files) == sorted(files[0].parent.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 8e6
    for file in files:
        _, metadata = read_weights(file)
        assert (metadata["system"], metadata["license"]) == (file.stem, "Apache-2.0")
        assert "recipe" not in metadata, "it names folders of one machine"
        assert file.name in card and f"configs/{file.stem}.py" in card


@pytest.mark.parametrize("number", CLIPS)
def test_the_recorded_scores_on_made_up_clips_still_hold(number):
    made = clip(number, seed=9, frames=7, size=(320, 576), world=WILD)
    scores = list(jaxvos.segment(Video(made.frames)))
    found = [
        region_similarity(score > 0.5, label > 0)
        for score, label in zip(scores[1:-1], made.labels[1:-1], strict=True)
    ]
    assert np.mean(found) == pytest.approx(CLIPS[number], abs=0.03)


def test_the_refiner_still_mends_what_it_did():
    """J of scores of a made-up picture that colours alone do not bring back to its object."""
    made = clip(6, seed=9, frames=1, size=(240, 432), world=WILD)
    (picture,), true = made.frames, made.labels[0] > 0

    own = cv2.GaussianBlur(np.roll(np.float32(true), (5, 8), (0, 1)), (0, 0), 6)
    answer = matched(picture, own)
    looked = Looked(picture, own, answer, settled(picture, answer))
    refined = refining(*refiner_of())(looked)
    found = [region_similarity(scores > 0.5, true) for scores in (looked.settled, refined)]
    assert found == pytest.approx(MENDED, abs=0.004)
    assert np.abs(refined - looked.settled).mean() == pytest.approx(CHANGE, rel=0.02)


def test_a_clip_at_rest_has_empty_masks_and_a_sentence_about_it(tmp_path):
    picture = clip(0, frames=1, size=(120, 160)).frames[0]
    write_video(tmp_path / "clip.mp4", [picture] * 4, rate=10)
    summary = segment_to_folder(tmp_path / "clip.mp4", tmp_path / "out", progress=False)
    assert (summary["system"], summary["foreground"]["max"]) == ("mover", 0)
    assert any("stand still" in text for text in summary["doubts"])
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_it_is_evaluated_by_its_name(tmp_path):
    made = clip(3, seed=9, frames=3, size=(64, 96), world=WILD)
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / "data" / kind / "480p" / "clip").mkdir(parents=True)
    for t, (frame, label) in enumerate(zip(made.frames, made.labels, strict=True)):
        write_png(tmp_path / f"data/JPEGImages/480p/clip/{t:05d}.png", Image.fromarray(frame))
        write_mask(tmp_path / f"data/Annotations/480p/clip/{t:05d}.png", label > 0)
    summary = evaluate(tmp_path / "data", system="mover", progress=False, workers=0)
    assert summary["weights"] == "the library's own" and list(summary["per_sequence"]) == ["clip"]


def test_fast_looks_at_two_neighbours():
    made = clip(0, seed=9, frames=4, size=(120, 160), world=WILD)
    slow, fast = (
        np.stack(list(jaxvos.segment(Video(made.frames), options={"fast": fast})))
        for fast in (False, True)
    )
    assert np.abs(slow - fast).max() > 0.01
