"""Whether a symbolic link stays inside the folder that holds it."""

from __future__ import annotations

import posixpath


def leaves(name: str, target: str) -> bool:
    """Whether the text of a link leads out of the folder that its name is relative to."""
    inside = posixpath.normpath(posixpath.join("/", posixpath.dirname(name)))
    depth = 0 if inside == "/" else inside.count("/")
    if target.startswith("/"):
        return True
    for part in target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return True
    return False
