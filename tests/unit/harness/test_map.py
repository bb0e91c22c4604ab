"""tests/README.md is the map of the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
SECTIONS = re.split(r"^## ", (TESTS / "README.md").read_text(), flags=re.MULTILINE)[1:]
NAMED = {
    section.split("\n")[0]: sorted(re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE))
    for section in SECTIONS
}


def files(folder: Path) -> list[str]:
    """The source files of a folder, without an __init__.py that is empty."""
    found = (file for file in folder.iterdir() if file.suffix in (".py", ".c"))
    package = TESTS / "unit" / "stub" / "tensorflow"
    return sorted(f.name for f in found if f.name != "__init__.py" or folder == package)


FOLDERS = sorted({file.parent for file in TESTS.rglob("*.py")})


@pytest.mark.parametrize("folder", FOLDERS, ids=[str(f.relative_to(TESTS)) for f in FOLDERS])
def test_the_map_names_exactly_the_files_of_each_folder(folder: Path) -> None:
    assert NAMED.get(str(folder.relative_to(TESTS.parent)), []) == files(folder)


def test_the_map_names_no_folder_that_does_not_exist() -> None:
    assert NAMED.keys() <= {str(folder.relative_to(TESTS.parent)) for folder in FOLDERS}


ROOT = TESTS.parent
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "examples").glob("*/README.md"),
    ROOT / "charts" / "tfrun" / "README.md",
    TESTS / "README.md",
]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_to_every_page_of_the_documentation() -> None:
    links = re.findall(r"\]\(docs/([^)#]+)", (ROOT / "README.md").read_text())
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= set(links)
