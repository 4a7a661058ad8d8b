"""Prints results of `jaxvos bench --out FILE.json` as the tables of docs/benchmarks.md."""

import json
import sys
from pathlib import Path

from jaxvos.programs.bench.suite import markdown

if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("Usage: python -m jaxvos.programs.bench FILE.json ... (from jaxvos bench --out)")
    for file in sys.argv[1:]:
        print(markdown(json.loads(Path(file).read_text())), end="")
