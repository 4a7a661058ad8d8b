"""Made-up results of evaluations, with and without the data set they are of."""

import csv
import json
import re

import numpy as np
from PIL import Image

from jaxvos.programs.evaluate import evaluate


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def square(t, left=8, size=(24, 32)):
    mask = np.zeros(size, np.uint8)
    mask[4 + t : 12 + t, left : left + 10] = 255
    return mask


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def made_up_run(folder, values, measures=("J", "F"), objects=False, **summary):
    """Results whose {sequence: rows of ([object,] frame, *measures)} are as given."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = ["sequence", "object", "frame"] if objects else ["sequence", "frame"]
    rows = [(name, *row) for name, of_sequence in values.items() for row in of_sequence]
    write_csv(folder / "per_frame.csv", [*keys, *measures], rows)
    numbers = {
        name: np.array(of_sequence)[:, -len(measures) :].astype(float).mean(axis=0).tolist()
        for name, of_sequence in values.items()
    }
    header = ["sequence", "frames", *(f"{measure}_mean" for measure in measures)]
    per_sequence = [(name, len(values[name]), *means) for name, means in numbers.items()]
    write_csv(folder / "per_sequence.csv", header, per_sequence)
    means = np.mean(list(numbers.values()), axis=0).tolist()
    whole = {measure: {"mean": mean} for measure, mean in zip(measures, means, strict=True)}
    text = {"protocol": "davis16", "averaging": "Over frames, then sequences.", **whole, **summary}
    (folder / "summary.json").write_text(json.dumps(text))
    return folder


def scored_runs(here):
    """A folder with a data set of ant and bee, and two runs: "right" but in bee, and "slip"."""
    for name, count in {"ant": 5, "bee": 9}.items():
        for t in range(count):
            picture = np.repeat(square(t)[..., None], 3, axis=-1)
            save(here / f"data/JPEGImages/480p/{name}/{t:05d}.png", picture)
            save(here / f"data/Annotations/480p/{name}/{t:05d}.png", square(t))
            save(here / f"right/{name}/{t:05d}.png", square(t, 8 + 5 * (name == "bee")))
            save(here / f"slip/{name}/{t:05d}.png", square(t, 8 + t))
    for run in ("right", "slip"):
        evaluate(
            here / "data",
            predictions=here / run,
            out=here / "results" / run,
            workers=1,
            progress=False,
        )
    return here


def runs_of(scored):
    return [scored / "results" / name for name in ("right", "slip")]


def content_of(page):
    found = re.search(r'type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1])
