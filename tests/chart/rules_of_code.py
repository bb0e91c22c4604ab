"""The rules of `code`: one source, and what each source needs."""

from __future__ import annotations

from typing import Any

from launcher.shared.sources import INLINE_BYTES
from tests.chart.rule import Rule, Values
from tests.unit.shared.addresses import ARCHIVE_MEANT, GIT_MEANT


def nfs(server: str, path: str) -> Values:
    return {"code": {"nfs": {"server": server, "path": path}, "image": {"path": ""}}}


def code(**source: Any) -> Values:
    return {"code": {"image": {"path": ""}, **source}}


def archive(**changes: str) -> Values:
    return code(archive={"url": "https://e.com/a.tgz", "sha256": "0a" * 32, **changes})


def git(**changes: str) -> Values:
    return code(git={"url": "https://e.com/a.git", "ref": "0a" * 20, **changes})


RULES = [
    Rule(
        "code has a source",
        {"code": {"image": {"path": ""}}},
        "code must be exactly one source: tasks take the program from it; got none. "
        "Fill in one of code.nfs (an NFS export that every node can mount), code.claim (a "
        "PersistentVolumeClaim), code.archive (the address of a tar or zip), code.git (a commit of "
        "a repository), code.inline (files in the values) and code.image.path (a folder of the "
        "image, or the mountPath of one of volumes).",
    ),
    Rule(
        "code has one source only",
        {"code": {"nfs": {"server": "nfs", "path": "/app"}}},
        "code must be exactly one source: tasks take the program from it; "
        "got code.image and code.nfs.",
        nfs("nfs", "/app"),
    ),
    Rule(
        "code.nfs has a server",
        nfs("", "/app"),
        "code.nfs.server must be a host name or an address: the kubelet mounts code.nfs.path "
        'from there; got "".',
        nfs("nfs", "/app"),
    ),
    Rule(
        "code.nfs has a path",
        nfs("nfs", ""),
        "code.nfs.path must be an absolute path: it names a folder that the server exports; got "
        '"".',
        nfs("nfs", "/"),
    ),
    Rule(
        "code.nfs.path is absolute",
        nfs("nfs", "app"),
        "code.nfs.path must be an absolute path: it names a folder that the server exports; got "
        '"app".',
        nfs("nfs", "/app"),
    ),
    Rule(
        "code.image.path is absolute",
        {"code": {"image": {"path": "app"}}},
        'code.image.path must be an absolute path: it is a folder in the container; got "app".',
    ),
    Rule(
        "code.claim has a name",
        code(claim={"subPath": "app"}),
        "code.claim.name must be the name of a PersistentVolumeClaim in the release's namespace: "
        'the kubelet mounts it; got "".',
        code(claim={"name": "code", "subPath": "app/src"}),
    ),
    *(
        Rule(
            f"code.claim.subPath is not {path}",
            code(claim={"name": "code", "subPath": path}),
            "code.claim.subPath must be a folder inside the claim: tasks take the program from it; "
            f'got "{path}". Write it like src/app, without . or .. parts.',
        )
        for path in ("/app", "app/", "a/../..", "./app")
    ),
    *(
        Rule(
            f"code.archive.url is not {url}",
            archive(url=url),
            "code.archive.url must be an http, https or file address without a password: each task "
            f'fetches it, and everybody can read the values; got "{url}".',
            archive(url="file:///data/code.tar"),
        )
        for url in (
            "",
            "ftp://e.com/a",
            "https://a:b@e.com/a",
            "https://",
            "s3://a/b",
            "https://e.com:x/a",
            "https://[::1/a",
            "https://größe.de/a",
            "https://e.com/größe",
        )
    ),
    *(
        Rule(
            f"code.archive.sha256 is not {text}",
            archive(sha256=text),
            "code.archive.sha256 must be 64 lower-case hexadecimal digits: tasks verify the "
            f'archive by it; got "{text}". `sha256sum FILE` prints it.',
            archive(sha256="0" * 64),
        )
        for text in ("", "0a", "0A" * 32)
    ),
    *(
        Rule(
            f"code.git.url is not {url}",
            git(url=url),
            "code.git.url must be an https, http, ssh or file address without a password: each "
            f'task fetches it, and everybody can read the values; got "{url}".',
            git(url="ssh://git@e.com/a.git"),
        )
        for url in (
            "",
            "https://token@e.com/a.git",
            "ext::sh -c x",
            "anna:secret@e.com/a.git",
            "git@e.com",
            "ssh://e.com:x/a",
            "https://größe.de/a",
        )
    ),
    *(
        Rule(
            f"code.git.url {url} has no scheme",
            git(url=url),
            f'code.git.url must be {meant}: tasks need the scheme; got "{url}".',
            git(url=meant),
        )
        for url, meant in GIT_MEANT.items()
    ),
    *(
        Rule(
            f"code.archive.url {url} has no scheme",
            archive(url=url),
            f'code.archive.url must be {meant}: tasks need the scheme; got "{url}".',
            archive(url=meant),
        )
        for url, meant in ARCHIVE_MEANT.items()
    ),
    *(
        Rule(
            f"code.git.ref is not {ref}",
            git(ref=ref),
            "code.git.ref must be a branch, a tag, or a whole commit id: all tasks fetch it; "
            f'got "{ref}". `git rev-parse BRANCH` prints a commit id, which never changes.',
            git(ref="release/2.1"),
        )
        for ref in ("", "--output=x", "a..b", "a b")
    ),
    *(
        Rule(
            f"code.inline has no {name}",
            code(inline={name: "x"}),
            "code.inline must be files by names inside the code folder: tasks write them there; "
            f'got "{name}".',
            code(inline={"lib/train.py": "x"}),
        )
        for name in ("", "/etc/passwd", "../x", "a//b")
    ),
    Rule(
        "code.inline has a folder for a file",
        code(inline={"lib": "x", "lib/train.py": "x"}),
        "code.inline must be files, none of them a folder of another: a name cannot be both; got "
        '"lib" and "lib/train.py". Rename one.',
        code(inline={"lib.py": "x", "lib/train.py": "x"}),
    ),
    Rule(
        "code.inline is small",
        code(inline={"train.py": "x" * (INLINE_BYTES - 14)}),
        f"code.inline must be at most {INLINE_BYTES} bytes: Helm keeps it up to three times in a "
        f"Secret of 1 MiB; got {INLINE_BYTES + 1} bytes. Use another source.",
        code(inline={"train.py": "x" * (INLINE_BYTES - 15)}),
    ),
    Rule(
        "code.digest is a digest",
        code(nfs={"server": "nfs", "path": "/app"}, digest="0a"),
        'code.digest must be 32 hexadecimal digits: tasks refuse other code; got "0a". The log of '
        "a task shows it: `code DIGEST is in ...`.",
        code(nfs={"server": "nfs", "path": "/app"}, digest="0a" * 16),
    ),
    Rule(
        "code.digest is empty with code.image",
        {"code": {"digest": "0a" * 16}},
        "code.digest must be empty with code.image.path: tasks use that code in place; got",
    ),
    Rule(
        "code.secret needs a source that logs in",
        {"code": {"secret": "login"}},
        "code.secret must be empty unless code.archive or code.git is the source: other sources "
        'need no login; got "login". Remove it.',
    ),
]
