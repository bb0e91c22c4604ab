"""A package says where its code runs, so each package may import only certain others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import launcher

ROOT = Path(launcher.__file__).parent
MAY = {
    "shared": set(),
    "code": {"shared"},
    "task": {"shared", "code"},
    "decisions": {"shared"},
    "controller": {"shared", "decisions"},
    "local": {"shared", "controller"},
}
# Modules that reach the outside or the clock. The two pure steps get such values as arguments.
IMPURE = {"os", "io", "sys", "time", "datetime", "random", "pathlib", "shutil", "tempfile"}
IMPURE |= {"socket", "ssl", "http", "urllib", "select", "asyncio", "threading", "subprocess"}
IMPURE |= {f"launcher.shared.{name}" for name in ("environment", "log", "process", "signals")}
PURE = [*(ROOT / "decisions").glob("*.py"), ROOT / "task" / "step.py", ROOT / "task" / "state.py"]


@pytest.mark.parametrize("package", MAY)
def test_a_package_imports_only_what_runs_where_it_does(package: str) -> None:
    for path in (ROOT / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top, _, rest = name.partition(".")
                if top == "launcher":
                    assert rest.partition(".")[0] in MAY[package] | {package}, path.name
                assert not {top, name} & IMPURE or path not in PURE, path.name


def test_every_package_has_a_rule() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == MAY.keys()
