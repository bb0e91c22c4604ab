"""Where a run's code comes from: reads the `code` part of job.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from launcher.shared.json_fields import Reader, matches

REFRESHES = ("OnRequest", "OnGeneration")  # when tasks pull the code again
# The sources of code, each with its keys; those of `inline` are the user's file names. `folder` is
# only for `launcher local`.
SOURCES: Mapping[str, tuple[str, ...]] = {
    "nfs": ("server", "path"),
    "claim": ("name", "subPath"),
    "archive": ("url", "sha256"),
    "git": ("url", "ref"),
    "inline": (),
    "image": ("path",),
    "folder": ("path",),
}
PULL_SECONDS = 120.0  # how long a source may be silent
# Helm keeps a release in a Secret of at most 1 MiB: the text is in the values, in the manifest, and
# after `helm upgrade --reuse-values` in the chart's defaults. See tests/chart/test_inline.py.
INLINE_BYTES = 160 * 1024
HEX_32, HEX_64, COMMIT = "[0-9a-f]{32}", "[0-9a-f]{64}", "[0-9a-f]{40}([0-9a-f]{24})?"
HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9._-]*)(:[0-9]{1,5})?"
# An address must not hold a password: values, logs and job.json would show it.
ARCHIVE_URL = rf"(https?://{HOST}([/?][!-~]*)?|file:///\S+)"
ARCHIVE_RULE = "an http, https or file address, without a password (see code.secret)"
GIT_URL = rf"(https?://{HOST}/[!-~]+|ssh://([!-.0-9;-?A-~]+@)?{HOST}/\S+|file:///\S+)"
# A name that git cannot read as an option, or as an expression like main~1.
REF = r"[A-Za-z0-9_](?!.*\.\.)[A-Za-z0-9._/+-]*"
GIT_RULE = "an https, http, ssh or file address, without a password (see code.secret)"
# What an address without a scheme means, as in the chart.
MEANT = (
    (r"(([!-.0-9;-?A-~]+@)?\w[\w.-]*):/?([\w~.-][^@:]*)", r"ssh://\1/\3"),
    (r"([\w-]+(\.[\w-]+)+(:\d{1,5})?/.*)", r"https://\1"),
    (r"(/[^/].*)", r"file://\1"),
)


@dataclass(frozen=True)
class Source:
    """Where the program's code is.

    The kubelet mounts `nfs` and `claim`. The task copies them and `folder`; of a claim it copies
    the folder `path`. It fetches `archive` and `git` from `url`; `pin` is the archive's SHA-256, or
    the commit, branch or tag. `inline` holds its `files`. `image` is used in place.
    """

    kind: str
    path: str = ""
    server: str = ""
    claim: str = ""
    url: str = ""
    pin: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Whether `pin` is a branch or tag, still to be resolved to a commit."""
        return self.kind == "git" and not matches(COMMIT, self.pin)

    def __str__(self) -> str:
        where = {
            "nfs": f" {self.server}:{self.path}",
            "claim": f" {self.claim}:/{self.path}",
            "git": f" {self.url} at {self.pin if self.moves else self.pin[:12]}",
            "inline": "",
        }
        return f"code.{self.kind}" + where.get(self.kind, f" {self.url or self.path}")


@dataclass(frozen=True)
class Delivery:
    """How a task gets the code: from where, and whether it installs its requirements.txt.

    Code with another digest is refused, unless `digest` is empty. The source may be silent for
    `timeout` seconds. `refresh`: each generation that restarts all tasks pulls again.
    """

    source: Source
    requirements: bool
    digest: str
    timeout: float
    refresh: bool = False


def read_delivery(part: Reader) -> Delivery:
    """Reads the `code` part of job.json; the reader collects mistakes."""
    source = _source(part)
    timeout = part.seconds("timeout") if "timeout" in part.document else PULL_SECONDS
    digest = ""
    if "digest" in part.document:
        rule = "the code's digest as the launcher logs it, 32 hexadecimal digits"
        digest = part.take("digest", rule, lambda v: matches(HEX_32, v), "")
    refresh = "refresh" in part.document and part.choice("refresh", REFRESHES) == REFRESHES[1]
    requirements = part.flag("requirements", optional=True)
    delivery = Delivery(source, requirements, digest, timeout, refresh)
    if digest and source.kind == "image":
        part.wrong("digest", "left out with code.image: the image has a digest of its own", digest)
    part.asked.update((*SOURCES, "digest", "timeout", "refresh"))
    part.done()
    return delivery


def _source(part: Reader) -> Source:
    given = [kind for kind in SOURCES if kind in part.document]
    if len(given) != 1:
        part.wrong("", "exactly one source: " + ", ".join(SOURCES), given)
        return Source("image")
    kind = given[0]
    if kind == "inline":
        return Source(kind, files=_files(part))
    inner = part.part(kind)
    if kind == "claim":
        name = inner.text("name", "the claim's name")
        rule = "a folder inside the claim"
        path = inner.take("subPath", rule, lambda v: v in (None, "") or _is_inside(v), "")
        source = Source(kind, path or "", claim=name)
    elif kind == "archive":
        sha256 = "the archive's SHA-256, 64 hexadecimal digits"
        url = _address(inner, ARCHIVE_URL, ARCHIVE_RULE)
        source = Source(
            kind,
            url=url,
            pin=inner.take("sha256", sha256, lambda v: matches(HEX_64, v), ""),
        )
    elif kind == "git":
        ref = "a branch, a tag, or a whole commit id"
        url = _address(inner, GIT_URL, GIT_RULE)
        pin = inner.take("ref", ref, lambda v: matches(REF, v), "")
        source = Source(kind, url=url, pin=pin)
    else:
        rule = "an absolute path"
        path = inner.take("path", rule, lambda v: isinstance(v, str) and v.startswith("/"), "/")
        server = inner.text("server", "the NFS server's name") if kind == "nfs" else ""
        source = Source(kind, path, server)
    inner.done()
    return source


def _files(part: Reader) -> dict[str, str]:
    def fits(v: Any) -> bool:
        return (
            isinstance(v, dict)
            and bool(v)
            and all(_is_inside(name) and isinstance(text, str) for name, text in v.items())
        )

    files: dict[str, str] = part.take("inline", "a mapping of relative paths to strings", fits, {})
    rule = "files, none of them a folder of another: a name cannot be both"
    for name in files:
        for folder in map(str, Path(name).parents):
            if folder in files:
                part.wrong("inline", rule, [folder, name])
    size = _json_bytes(files)
    if size > INLINE_BYTES:
        part.wrong("inline", f"at most {INLINE_BYTES} bytes: a Helm release holds no more", size)
    return files


def _is_inside(name: Any) -> bool:
    """Whether a name is a relative path without empty, `.` and `..` parts."""
    return (
        isinstance(name, str)
        and "\0" not in name
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def _json_bytes(document: Any) -> int:
    """The size in bytes of a document as Helm writes it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return len(re.sub("[<>&\u2028\u2029]", r"\\u0000", text).encode(errors="replace"))


def _address(part: Reader, pattern: str, rule: str) -> str:
    given = str(part.document.get("url"))
    for form, address in MEANT:
        meant = re.sub(form, address, given) if matches(form, given) else ""
        if _is_address(pattern, meant):
            rule = f"{meant}: tasks need the scheme"
    return str(part.take("url", rule, lambda v: _is_address(pattern, v), ""))


def _is_address(pattern: str, value: Any) -> bool:
    """Whether it is an address of this pattern, and usable in a request."""
    if not matches(pattern, value) or "\0" in unquote(value) or not value.isprintable():
        return False
    try:
        return urlsplit(str(value)).port != 0
    except ValueError:  # an invalid port or IP address
        return False
