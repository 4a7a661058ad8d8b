"""`jaxvos demo`: trains a small COSNet on made-up video, then segments and scores unseen clips.

Needs no data and no network. The folder it leaves holds the clips in the DAVIS layout, the masks, a
film, a contact sheet, the scores and the weights, so that every other command can be tried on it.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from PIL import Image
from rich.console import Console

from data_pipelines.procedural import SALIENT, SEEDS, clip
from jaxvos import __version__
from jaxvos.davis_layout import list_sequences
from jaxvos.drawing import contact_sheet, overlay
from jaxvos.film_writer import write_video
from jaxvos.programs.evaluate import evaluate_segmenter
from jaxvos.programs.train import train
from jaxvos.recipe import read_recipe
from jaxvos.system import initialise
from jaxvos.systems import load
from jaxvos.video import read_mask, write_mask, write_png
from jaxvos.whole_folder import whole_folder

CLIPS, FRAMES, SIZE, RATE = 4, 10, (192, 336), 12
PRODUCTS = ("clips", "run", "scores", "overlay.mp4", "sheet.png", "summary.json")


def demo(
    out: str | Path,
    *,
    steps: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """The summary of the whole road on made-up clips; what it makes is written to the folder `out`.

    Args:
        out: clips/ (frames and masks in the DAVIS layout), run/ (the training run), scores/ (tables
            and masks), overlay.mp4, sheet.png, summary.json.
        steps: Training steps; 0 for the recipe's own number.
        overwrite: Whether an earlier demo in `out` is replaced.
        progress: Whether progress bars are shown.
    """
    begin, say = time.perf_counter(), Console(stderr=True).print
    changes = [f"steps={steps}"] if steps else []
    config = read_recipe("demo", changes)
    with whole_folder(out, PRODUCTS, overwrite=overwrite) as stage:
        say(f"[bold]1.[/] Making {CLIPS} clips that training will not see ({SIZE[1]} x {SIZE[0]}).")
        _write_clips(stage / "clips")
        device = jax.devices()[0].device_kind
        say(f"[bold]2.[/] Training a small COSNet, {config.steps} steps on {device}.")
        trained = train(config, stage / "run", progress=progress)
        if trained["stopped"]:
            raise SystemExit(143)
        say("[bold]3.[/] Segmenting the unseen clips, and scoring the masks.")
        loaded = load(weights=stage / "run")
        scores = evaluate_segmenter(
            stage / "clips", loaded.segmenter(), out=stage / "scores", progress=progress
        )
        untrained = initialise(loaded.system, loaded.model, config.seed)
        floor = evaluate_segmenter(
            stage / "clips",
            loaded._replace(variables=untrained).segmenter(),
            progress=False,
        )
        _write_pictures(stage)
        summary = {
            "J": scores["J"]["mean"],
            "F": scores["F"]["mean"],
            "J_untrained": floor["J"]["mean"],
            "seconds": round(time.perf_counter() - begin, 1),
            "training_seconds": trained["seconds"],
            "steps": trained["step"],
            "clips": CLIPS,
            "frames": CLIPS * FRAMES,
            "device": device,
            "jaxvos": __version__,
        }
        (stage / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    _tell(Path(out), summary)
    return summary


def _write_clips(root: Path) -> None:
    """Writes the unseen clips in the DAVIS layout."""
    for index in range(CLIPS):
        made = clip(index, seed=SEEDS["test"], frames=FRAMES, size=SIZE, world=SALIENT)
        frames = root / "JPEGImages" / "480p" / f"clip-{index}"
        masks = root / "Annotations" / "480p" / f"clip-{index}"
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, (picture, labels) in enumerate(zip(made.frames, made.labels, strict=True)):
            bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(frames / f"{t:05d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95]):
                raise OSError(f"{frames / f'{t:05d}.jpg'} could not be written.")
            write_mask(masks / f"{t:05d}.png", (labels > 0).astype(np.uint8))


def _write_pictures(stage: Path) -> None:
    """The film of all clips with their masks, and a sheet of a few frames of each."""
    write_video(stage / "overlay.mp4", (picture for _, picture in _overlaid(stage)), RATE)
    chosen = [(n, p) for i, (n, p) in enumerate(_overlaid(stage)) if i % FRAMES in (1, 6)]
    names, pictures = zip(*chosen, strict=True)
    write_png(stage / "sheet.png", Image.fromarray(contact_sheet(pictures, names)))


def _overlaid(stage: Path) -> Iterator[tuple[str, np.ndarray]]:
    for files in list_sequences(stage / "clips"):
        for path in files.frames:
            frame = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            mask = read_mask(stage / "scores" / "masks" / files.name / f"{path.stem}.png")
            # In the second colour, green: the first one, red, would not show on these objects.
            yield f"{files.name} {path.stem}", overlay(frame, 2 * mask)


def _tell(out: Path, summary: dict[str, Any]) -> None:
    """Says what came out, and what to try next."""
    out = Path(os.path.relpath(out))
    weights, clips = out / "run" / "weights.safetensors", out / "clips"
    frames = clips / "JPEGImages" / "480p" / "clip-0"
    print(
        f"""
On {summary["clips"]} clips that it has not seen the network now covers the moving objects with
    J = {summary["J"]:.3f}   (overlap of mask and truth; untrained: {summary["J_untrained"]:.3f})
    F = {summary["F"]:.3f}   (agreement of the outlines)
after {summary["steps"]} steps, {summary["seconds"]:.0f} seconds in all. See

    {out / "overlay.mp4"}    the clips with the masks laid over them
    {out / "sheet.png"}      a few frames of each
    {out / "summary.json"}   these numbers

Next:

    jaxvos segment {frames} --weights {weights} --out masks
    jaxvos evaluate --data {clips} --predictions {out / "scores" / "masks"}
    jaxvos train cosnet_small --workdir run --set data.videos=YOUR_DAVIS_FOLDER:split=train
    jaxvos systems

This network knows bright, warm objects before a muted world and nothing else. For your own videos
convert published weights (jaxvos convert) or train on real ones (jaxvos train)."""
    )
