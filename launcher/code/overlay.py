"""Makes a virtual environment over all packages that a Python finds. A program of its own.

It runs with the program's Python, which may itself be a virtual environment, and takes the folder
to make.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the folder of this file, which has a module `copy`

import os
import re
import venv
from importlib.metadata import distributions
from pathlib import Path


def main(folder: Path) -> None:
    """Makes it without pip, and writes `image.txt`: the packages there, as constraints of pip."""
    paths = [path for path in sys.path if os.path.isdir(path)]
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "image.pth").write_text("".join(f"{path}\n" for path in paths))
    (folder / "packages").symlink_to(packages.relative_to(folder))
    found: dict[str, str] = {}
    for each in distributions(path=paths):
        if os.path.basename(getattr(each, "_path", "")).startswith("~"):
            continue  # pip's leftover of a removed package; pip ignores it, too
        name, version = each.metadata["Name"] or "", each.version or ""
        # Debian's packages may have versions that pip refuses.
        if re.fullmatch(r"\d[\w.]*(\+[\w.]+)?", version):
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    text = "".join(f"{name}=={version}\n" for name, version in found.items() if name)
    (folder / "image.txt").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
