"""`.tfrunignore`: which names of a code folder are not copied.

The common part of .gitignore: one pattern a line, `#` begins a comment, `!` includes a name again,
the last pattern that matches decides. `*`, `?` and `[...]` do not match `/`; `**/` and a final
`/**` match all levels. With a `/` at its start or in its middle, a pattern is relative to the code
folder; without, it matches at every level. With a `/` at its end it matches only folders. What is
in an ignored folder cannot be included again. https://git-scm.com/docs/gitignore
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.shared.exits import ExitCode, LauncherError

FILE = ".tfrunignore"
ALWAYS = frozenset({".git", "__pycache__"})
TOKEN = re.compile(
    r"(?P<levels>\*\*/)|(?P<below>/\*\*\Z)|(?P<any>\*+)|(?P<one>\?)"
    r"|\[(?P<no>[!^]?)(?P<set>\]?[^]/]+)\]|\\?(?P<self>.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class _Pattern:
    regex: re.Pattern[str]
    keep: bool
    folder: bool


class Ignored:
    """The patterns of one file."""

    def __init__(self, text: str) -> None:
        """Raises LauncherError(CONFIGURATION) if a line is not a pattern."""
        self._patterns = list(_patterns(text))

    def __call__(self, name: str, folder: bool) -> bool:
        """Whether a name, relative to the code folder, is ignored."""
        if name.rpartition("/")[2] in ALWAYS:
            return True
        ignored = False
        for pattern in self._patterns:
            if pattern.keep is ignored and (folder or not pattern.folder):
                ignored ^= pattern.regex.fullmatch(name) is not None
        return ignored


def _patterns(text: str) -> Iterator[_Pattern]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.rstrip()
        keep = words.startswith("!")
        path = words[keep:].rstrip("/")
        if not path or words.startswith("#"):
            continue
        everywhere = "" if "/" in path else "(?:.*/)?"
        try:
            regex = re.compile(everywhere + TOKEN.sub(_regex, path.lstrip("/")), re.DOTALL)
        except re.error as error:
            raise LauncherError(
                ExitCode.CONFIGURATION,
                f"{FILE} must hold patterns; line {number}, {line!r}, is not one: {error}",
            ) from None
        yield _Pattern(regex, keep, words.endswith("/"))


def _regex(token: re.Match[str]) -> str:
    if token["levels"]:
        return "(?:.*/)?"
    if token["below"]:
        return "/.*"
    if token["any"]:
        return "[^/]*"
    if token["one"]:
        return "[^/]"
    if token["set"]:
        inside = token["set"].replace("\\", r"\\").replace("[", r"\[")
        inside = r"\]" + inside[1:] if inside.startswith("]") else inside
        return f"(?!/)[{'^' if token['no'] else ''}{inside}]"
    return re.escape(token["self"])
