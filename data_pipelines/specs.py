"""The short texts that name sources: NAME, NAME:key=value,key=value, and several joined by "+"."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

REPEATED = ("only", "without")
"""Keys that may be given several times: each names one video."""


class Options(NamedTuple):
    """The key=value pairs of a source's text, in order."""

    given: Mapping[str, list[str]]

    def check(self, name: str, known: Collection[str]) -> None:
        """Refuses keys that are not known, and ones given twice that have one value."""
        for key, values in self.given.items():
            if key not in known:
                raise ValueError(f"{name} has no option {key!r}. It has: {', '.join(known)}.")
            if len(values) > 1 and key not in REPEATED:
                raise ValueError(f"{name} is given {key} twice: {' and '.join(values)}.")

    def one(self, key: str, default: str) -> str:
        """The value of a key."""
        return self.given.get(key, [default])[0]

    def all(self, key: str) -> list[str]:
        """All the values of a key that may be given several times."""
        return self.given.get(key, [])

    def whole(self, key: str, default: int | None, least: int = 1) -> int:
        """A whole number of at least `least`."""
        text = self.one(key, str(default))
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"{key} must be a whole number of at least {least}, not {text!r}.")
        return int(text)

    def share(self, key: str, default: float) -> float:
        """A number in 0..1."""
        text = self.one(key, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise ValueError(f"{key} must be a number from 0 to 1, not {text!r}.")
        return value


def options_of(spec: str) -> tuple[str, Options]:
    """The name and the options of "NAME" or "NAME:key=value,key=value"."""
    name, _, tail = spec.rpartition(":")
    if not name or "=" not in tail:
        return spec, Options({})
    given: dict[str, list[str]] = {}
    for item in tail.split(","):
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ValueError(f"Options are key=value, joined by commas; {spec!r} has {item!r}.")
        given.setdefault(key.strip(), []).append(value.strip())
    return name, Options(given)


def parts_of(spec: str) -> list[str]:
    """The sources joined by "+" in `spec`, unless that is a folder of this very name."""
    if Path(options_of(spec)[0]).expanduser().is_dir():
        return [spec]
    parts = [part.strip() for part in spec.split("+")]
    if not all(parts):
        raise ValueError(f"{spec!r} names no source, or an empty one between two +.")
    return parts
