"""Results of one or more evaluations as one HTML file that needs nothing else: `jaxvos report`.

The page is report.html with report.css, report.js, and the numbers and pictures as JSON in it.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jaxvos.metrics.protocols import get
from jaxvos.programs.report_content import page_content, spread
from jaxvos.programs.report_frames import Pictures, embed_all, find_frames
from jaxvos.programs.report_runs import Run, read_runs
from jaxvos.whole_file import whole_file

FRAMES = 30
"""Frames shown of a sequence; 20 sequences with the masks of two runs come to about 9 MB."""


def report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    data: str | Path | None = None,
    frames: int = FRAMES,
    overwrite: bool = False,
) -> Path:
    """The HTML file, written whole or not at all, with the scores of the runs side by side.

    Args:
        runs: Folders of results that `jaxvos evaluate --out` wrote. The others are compared with
            the first.
        out: The file.
        data: Where the data set is now; None is where it was when it was scored. Without it the
            page has no pictures, and says so.
        frames: How many frames of a sequence are shown at most, evenly spread; the worst and the
            best frames come on top. 0 leaves out all pictures.
        overwrite: Whether the file may replace one that is there.
    """
    out = Path(out)
    if frames < 0:
        raise ValueError(f"The number of frames shown of a sequence is 0 or more, not {frames}.")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; the report is a file, such as report.html.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"There already is {out}. Choose another name, or overwrite.")
    text = _page(_content(read_runs(runs), None if data is None else Path(data), frames))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return out


def _page(content: Mapping[str, Any]) -> str:
    """The HTML of a report's content; no text in it can end the element that it is in."""
    ours = resources.files("jaxvos.programs")
    pieces = {
        "title": html.escape(content["title"]),
        "style": ours.joinpath("report.css").read_text(encoding="utf-8"),
        "script": ours.joinpath("report.js").read_text(encoding="utf-8"),
        "data": json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = ours.joinpath("report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: pieces[match[1]], page)


def _content(runs: Sequence[Run], data: Path | None, frames: int) -> dict[str, Any]:
    """Everything that the page shows, as report.js takes it."""
    shown = page_content(runs)
    notes, pictures = [], {}
    if frames:
        wanted = {each["name"]: spread(each["frames"], frames) for each in shown["sequences"]}
        for extremes in shown["extremes"]:
            for name, frame in extremes["worst"] + extremes["best"]:
                wanted[name].append(frame)
        notes, pictures = _pictures(runs, data, wanted)
    sequences = [
        {
            **each,
            "shown": [
                {"t": t, **pictures[each["name"], frame]}
                for t, frame in enumerate(each["frames"])
                if (each["name"], frame) in pictures
            ],
        }
        for each in shown["sequences"]
    ]
    return {**shown, "notes": shown["notes"] + notes, "sequences": sequences}


def _pictures(
    runs: Sequence[Run], data: Path | None, wanted: Mapping[str, Sequence[str]]
) -> tuple[list[str], Pictures]:
    """Notes on what cannot be shown, and the pictures of what can."""
    folders = [_masks(run) for run in runs]
    notes = [
        f"The masks of {run.name} are not to be seen: {_masks_are(run)}"
        for run, folder in zip(runs, folders, strict=True)
        if folder is None
    ]
    roots = [run.summary["data"] for run in runs if "data" in run.summary]
    if not any(folders) or not (data or roots):
        return [*notes, "There are no pictures on this page."], {}
    root = Path(data or roots[0])
    try:
        files = get(runs[0].summary["protocol"]).find(root, list(wanted))
        found = find_frames(files, wanted, folders)
    except (OSError, ValueError) as error:
        if data is not None:
            raise
        return [*notes, f"There are no pictures on this page: {error}"], {}
    if not found:
        return [*notes, f"No pictures: no frame in {root} has both an annotation and a mask."], {}
    objects = any(
        each.keys() != {""} for run in runs for s in run.frames.values() for each in s.values()
    )
    return notes, embed_all(found, void=objects)


def _masks(run: Run) -> Path | None:
    """The folder of the run's masks SEQUENCE/FRAME.png, if there is one."""
    folder = Path(run.summary.get("predictions") or run.folder / "masks")
    return folder if folder.is_dir() else None


def _masks_are(run: Run) -> str:
    if "predictions" in run.summary:
        return f"there is no {run.summary['predictions']} (any more)."
    return f"{run.folder / 'masks'} was not kept."
