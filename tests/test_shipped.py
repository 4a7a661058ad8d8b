"""The weights that come with the library: what they are, and that they still find what they did."""

import json

import numpy as np
import pytest
from PIL import Image

import jaxvos
from data_pipelines.procedural import WILD, clip
from jaxvos.checkpoints import read_weights
from jaxvos.film_writer import write_video
from jaxvos.metrics.davis import region_similarity
from jaxvos.programs.evaluate import evaluate
from jaxvos.programs.segment import segment_to_folder
from jaxvos.systems import SHIPPED, load, shipped
from jaxvos.typing import Video
from jaxvos.video import write_mask, write_png

CLIPS = {0: 0.782, 3: 0.934}
"""Made-up clips of seed 9, which training has not seen -> mean J of the inner frames."""


def test_they_are_small_and_say_where_they_come_from():
    _, metadata = read_weights(shipped())
    assert shipped().stat().st_size < 8e6
    assert metadata["system"] == SHIPPED == load().name
    assert metadata["license"] == "Apache-2.0"
    card = (shipped().parent / "README.md").read_text()
    assert "made-up video" in card and "configs/mover.py" in card


@pytest.mark.parametrize("number", CLIPS)
def test_the_recorded_scores_on_made_up_clips_still_hold(number):
    made = clip(number, seed=9, frames=7, size=(320, 576), world=WILD)
    scores = list(jaxvos.segment(Video(made.frames)))
    found = [
        region_similarity(score > 0.5, label > 0)
        for score, label in zip(scores[1:-1], made.labels[1:-1], strict=True)
    ]
    assert np.mean(found) == pytest.approx(CLIPS[number], abs=0.03)


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
