"""Reads typed values from a JSON document, and reports all mistakes at once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Callable


class Reader:
    """Reads typed values from a JSON document and collects every mistake."""

    def __init__(self, document: Any, path: str, mistakes: list[str]) -> None:
        self.path = path
        self.mistakes = mistakes
        self.document: dict[str, Any] = {}
        self.asked: set[str] = set()
        if isinstance(document, dict):
            self.document = document
        else:
            self.wrong("", "a mapping", document)

    def wrong(self, key: str, rule: str, got: object) -> None:
        """Records that a key breaks a rule."""
        name = ".".join(part for part in (self.path, key) if part) or "the document"
        self.mistakes.append(f"{name} must be {rule}; got {json.dumps(got, default=str)}")

    def take(self, key: str, rule: str, fits: Callable[[Any], bool], default: Any) -> Any:
        """The value of a key. If it does not fit: records a mistake, returns the default."""
        self.asked.add(key)
        value = self.document.get(key)
        if fits(value):
            return value
        self.wrong(key, rule, value)
        return default

    def text(self, key: str, rule: str = "a string", empty: bool = False) -> str:
        """A string; an empty one only with `empty`."""
        value: str = self.take(key, rule, lambda v: isinstance(v, str) and (empty or v != ""), "")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of the strings in `choices`."""
        rule = "one of " + ", ".join(choices)
        value: str = self.take(key, rule, lambda v: v in choices, choices[0])
        return value

    def whole(self, key: str, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""

        def fits(v: Any) -> bool:
            return isinstance(v, int) and not isinstance(v, bool) and least <= v <= most

        value: int = self.take(key, f"a whole number from {least} to {most}", fits, least)
        return value

    def seconds(self, key: str) -> float:
        """Seconds, 0 or more."""

        def fits(v: Any) -> bool:
            return isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v < 1e9

        return float(self.take(key, "seconds, 0 or more", fits, 0))

    def flag(self, key: str, optional: bool = False) -> bool:
        """True or false; with `optional` a key that is absent is false."""

        def fits(v: Any) -> bool:
            return isinstance(v, bool) or (optional and v is None)

        return bool(self.take(key, "true or false", fits, False))

    def texts(self, key: str, rule: str, least: int = 0) -> tuple[str, ...]:
        """A list of at least `least` strings."""

        def fits(v: Any) -> bool:
            return (
                isinstance(v, list) and len(v) >= least and all(isinstance(item, str) for item in v)
            )

        return tuple(self.take(key, rule, fits, []))

    def part(self, key: str) -> Reader:
        """A reader of the mapping under a key."""
        self.asked.add(key)
        path = ".".join(part for part in (self.path, key) if part)
        return Reader(self.document.get(key), path, self.mistakes)

    def done(self) -> None:
        """Records every unknown key as a mistake."""
        for key in sorted(set(self.document) - self.asked):
            name = ".".join(part for part in (self.path, key) if part)
            self.mistakes.append(f"{name} is not a known key; known are {sorted(self.asked)}")


def matches(pattern: str, value: Any) -> bool:
    """Whether a value is a string, and the pattern matches all of it."""
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
