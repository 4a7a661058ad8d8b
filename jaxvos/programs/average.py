"""Averages weights of several training runs of one system: often better than any of them.

    python -m jaxvos.programs.average runs/one runs/other --out average.safetensors

Wortsman et al., "Model soups", ICML 2022. It works where one run has begun with another's weights,
or all with the same.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxvos.checkpoints import METADATA, save_weights, weights_of


def average(sources: Sequence[str | Path], out: str | Path) -> None:
    """Writes the mean of the weights of `sources`, statistics of BatchNorm included, to `out`.

    Args:
        sources: Two or more files of weights, or folders of training runs.
        out: A new file; of itself it says what the first source says, but for steps and scores.

    Raises:
        ValueError: They are of several systems, or of other shapes.
        FileExistsError: There is a file at `out`.
    """
    if len(sources) < 2:
        raise ValueError(f"An average is one of two sources or more, not of {len(sources)}.")
    if Path(out).exists():
        raise FileExistsError(f"There already is {out}. Choose another name.")
    first, about = weights_of(sources[0])
    trees = [first, *(weights_of(source, about["system"])[0] for source in sources[1:])]
    shapes = [
        {key: leaf.shape for key, leaf in flatten_dict(tree, sep="/").items()} for tree in trees
    ]
    for source, found in zip(sources, shapes, strict=True):
        differ = sorted(
            key for key in found.keys() | shapes[0].keys() if found.get(key) != shapes[0].get(key)
        )
        if differ:
            raise ValueError(
                f"{source} is not of the shapes of {sources[0]}: {differ[0]} is "
                f"{found.get(differ[0], 'absent')}, not {shapes[0].get(differ[0], 'absent')}."
            )

    def mean(*leaves: np.ndarray) -> np.ndarray:
        return np.mean(leaves, axis=0, dtype=np.float64).astype(leaves[0].dtype)

    made = "average of " + ", ".join(Path(source).name for source in sources)
    kept = {key: about[key] for key in (*METADATA, "segmenter") if key in about}
    save_weights(out, jax.tree.map(mean, *trees), kept | {"source": made})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sources", nargs="+", help="weights or the folders of training runs")
    parser.add_argument("--out", required=True, help="a new .safetensors file")
    given = parser.parse_args()
    average(given.sources, given.out)


if __name__ == "__main__":
    main()
