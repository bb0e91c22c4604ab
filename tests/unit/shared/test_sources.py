"""The sources of code: how each is read, and how a mistake in it is named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.jobs import document, job
from tests.unit.shared.addresses import ARCHIVE_MEANT, GIT_MEANT
from tests.unit.shared.refusals import refusal


def test_an_nfs_source_is_named_by_server_and_path() -> None:
    read = job(code={"nfs": {"server": "nfs.example.com", "path": "/exports/app"}})
    assert str(read.source) == "code.nfs nfs.example.com:/exports/app"


SHA256, COMMIT = "0a" * 32, "0b" * 20


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ({"claim": {"name": "code", "subPath": "a/b"}}, "code.claim code:/a/b"),
        ({"claim": {"name": "code"}}, "code.claim code:/"),
        (
            {"archive": {"url": "https://e.com/a.tgz?x=1", "sha256": SHA256}},
            "code.archive https://e.com/a.tgz?x=1",
        ),
        ({"archive": {"url": "file:///a.zip", "sha256": SHA256}}, "code.archive file:///a.zip"),
        (
            {"git": {"url": "ssh://git@e.com/a.git", "ref": COMMIT}},
            "code.git ssh://git@e.com/a.git at 0b0b0b0b0b0b",
        ),
        ({"inline": {"train.py": "pass", "lib/x.py": ""}}, "code.inline"),
    ],
)
def test_a_source_is_read_and_is_named_in_messages(code: dict[str, Any], told: str) -> None:
    read = job(code={**code, "requirements": True, "digest": "c" * 32, "timeout": 5})
    assert str(read.source) == told
    delivery = read.delivery
    assert (delivery.requirements, delivery.digest, delivery.timeout) == (True, "c" * 32, 5)


def archive(**changes: str) -> dict[str, Any]:
    return {"archive": {"url": "https://e.com/a", "sha256": SHA256, **changes}}


def git(**changes: str) -> dict[str, Any]:
    return {"git": {"url": "https://e.com/a", "ref": COMMIT, **changes}}


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("code", {"claim": {"name": ""}}, "code.claim.name must be the claim's name"),
        *(
            ("code", {"claim": {"name": "a", "subPath": path}}, "code.claim.subPath must be a fold")
            for path in ("/a", "a/../b", "..", "a//b", "a/", 3)
        ),
        *(
            ("code", archive(url=url), "code.archive.url must be an http, https or file address")
            for url in (
                "",
                "ftp://e.com/a",
                "https://",
                "https://a:b@e.com/a",
                "https://e.com/a b",
                "https://e.com:x/a",
                "https://e.com:99999/a",
                "https://[::1/a",
                "https://[::z]/a",
                "https://größe.de/a",
                "https://e.com/größe",
                "file:///a%00b",
                "file:///a\0",
                "file:///\ud800",
            )
        ),
        *(
            ("code", archive(sha256=text), "code.archive.sha256 must be the archive's SHA-256")
            for text in ("", SHA256[1:], SHA256.upper(), SHA256 + "0")
        ),
        *(
            ("code", git(url=url), "code.git.url must be an https, http, ssh or file address")
            for url in (
                "ext::sh",
                "anna:secret@e.com/a.git",
                "git@e.com",
                "--upload-pack=x",
                "https://a@e.com/a",
                "ssh://e.com:x/a",
                "ssh://e.com:99999/a",
                "https://[::1/a",
                "https://größe.de/a",
                "ssh://-x/a",
            )
        ),
        *(
            ("code", git(url=url), f'code.git.url must be {meant}: tasks need the scheme; got "')
            for url, meant in GIT_MEANT.items()
        ),
        *(
            ("code", archive(url=url), f"code.archive.url must be {meant}: tasks need the scheme")
            for url, meant in ARCHIVE_MEANT.items()
        ),
        ("code", archive(url="git@e.com:a.tgz"), "code.archive.url must be an http, https or file"),
        *(
            ("code", git(ref=ref), "code.git.ref must be a branch, a tag, or a whole commit id")
            for ref in ("a b", "a..b", "", "--output=x")
        ),
        *(
            ("code", {"inline": files}, "code.inline must be a mapping of relative paths")
            for files in ({}, {"/a": "x"}, {"../a": "x"}, {"a/": "x"}, {"": "x"}, {"a": 1}, "x")
        ),
        *(
            (
                "code",
                {"inline": {"a": "", "x/y": "", name: ""}},
                "code.inline must be files, none of them a folder of another: a name cannot be "
                f'both; got ["{folder}", "{name}"]',
            )
            for folder, name in (("a", "a/b"), ("a", "a/b/c"), ("x/y", "x/y/z"))
        ),
        ("code", {"inline": {"a": "x" * 600_000}}, "code.inline must be at most 163840 bytes"),
        ("code__digest", "abc", "code.digest must be the code's digest as the launcher logs it"),
        ("code__digest", "a" * 32, "code.digest must be left out with code.image"),
        ("code__requirements", "yes", "code.requirements must be true or false"),
        ("code__timeout", -1, "code.timeout must be seconds"),
        (
            "code",
            {"image": {"path": "/a"}, "refresh": "Always"},
            "code.refresh must be one of OnRe",
        ),
        ("code", {}, "code must be exactly one source: nfs, claim, archive, git, inline, image,"),
        ("code__nfs", {"server": "s", "path": "/p"}, 'got ["nfs", "image"]'),
        ("code__svn", {"url": "u"}, "code.svn is not a known key"),
        ("code__image__path", "app", 'code.image.path must be an absolute path; got "app"'),
        ("code", {"nfs": {"server": "", "path": "/p"}}, "code.nfs.server must be the NFS server"),
    ],
)
def test_a_wrong_source_is_named(key: str, value: Any, mistake: str) -> None:
    reason = refusal(document(**{key: value}))
    assert reason.startswith("1 mistake in the values:\n")
    assert mistake in reason
