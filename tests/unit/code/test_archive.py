"""Fetching archives: from servers and volumes that fail, are silent, or send something else."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from launcher.code import archive
from launcher.code.archive import Archive
from launcher.code.credentials import Credentials
from launcher.shared.exits import ExitCode, LauncherError
from tests.unit.code.archives import FILE, of, tar


def test_an_archive_with_another_sha256_is_not_opened(tmp_path: Path) -> None:
    file = tar(tmp_path / "file", ("../evil", FILE, "x"))
    wanted = of(file, sha256="0" * 64)
    with pytest.raises(LauncherError, match=r"code\.archive\.sha256, 0{64}; it has") as error:
        archive.fetch(wanted, tmp_path / "to", threading.Event())
    assert error.value.exit_code is ExitCode.CODE_MISSING


def test_an_archive_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    file = tar(tmp_path / "file")
    wanted = of(file, url=(tmp_path / "other").as_uri())
    with pytest.raises(LauncherError, match="No such file or directory") as error:
        archive.fetch(wanted, tmp_path / "to", threading.Event())
    assert error.value.exit_code is ExitCode.CODE_MISSING


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with the next of `answers`. The last one is repeated."""

    def __init__(self) -> None:
        self.answers: list[Callable[[Handler], object]] = []
        self.seen: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/code.tar"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: object) -> None:
        pass


def whole(data: bytes, handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def part(data: bytes, handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])


def says(code: int, handler: Handler) -> None:
    handler.send_error(code)


def leads_to(url: str, handler: Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", url)
    handler.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PAUSES", (0.01, 0.01, 0.01))


@pytest.mark.usefixtures("quick")
def test_a_download_that_fails_for_a_moment_is_retried(tmp_path: Path, server: Server) -> None:
    file = tar(tmp_path / "file", ("train.py", FILE, "x" * 100_000))
    data = file.read_bytes()
    server.answers = [
        functools.partial(says, 503),
        functools.partial(part, data),
        lambda handler: handler.connection.close(),
        functools.partial(whole, data),
    ]
    archive.fetch(of(file, url=server.url), tmp_path / "to", threading.Event())
    assert (tmp_path / "to" / "train.py").read_text() == "x" * 100_000
    assert len(server.seen) == 4


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (
            functools.partial(says, 404),
            ExitCode.CODE_MISSING,
            "must exist: the server answered 404$",
        ),
        (functools.partial(says, 401), ExitCode.CODE_MISSING, r"answered 401 \(code\.secret must"),
        (functools.partial(says, 500), ExitCode.IO, "cannot be fetched: the server answered 500"),
        (functools.partial(part, bytes(10)), ExitCode.IO, "it ended 5 bytes early"),
    ],
)
def test_the_error_of_a_server_that_keeps_failing_is_reported(
    tmp_path: Path, server: Server, answer: Callable[[Handler], None], code: ExitCode, words: str
) -> None:
    server.answers = [answer]
    wanted = of(tar(tmp_path / "file"), url=server.url, timeout=60)
    with pytest.raises(LauncherError, match=words) as error:
        archive.fetch(wanted, tmp_path / "to", threading.Event())
    assert error.value.exit_code is code
    assert len(server.seen) == (1 if code is ExitCode.CODE_MISSING else 4)


def test_a_server_that_is_silent_is_given_up(tmp_path: Path, server: Server) -> None:
    silent = threading.Event()
    server.answers = [lambda _: silent.wait(30) and None]
    wanted = of(tar(tmp_path / "file"), url=server.url, timeout=0.3)
    begin = time.monotonic()
    try:
        with pytest.raises(LauncherError, match=r"timed out|has not answered") as error:
            archive.fetch(wanted, tmp_path / "to", silent)
    finally:
        silent.set()
    assert error.value.exit_code is ExitCode.IO
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        (None, None),
        (
            Credentials("anna", "secret", ""),
            "Basic " + base64.b64encode(b"anna:secret").decode(),
        ),
        (Credentials("", "", "abc"), "Bearer abc"),
    ],
)
def test_the_secret_is_not_sent_to_the_target_of_a_redirect(
    tmp_path: Path, server: Server, credentials: Credentials | None, header: str | None
) -> None:
    file = tar(tmp_path / "file", ("train.py", FILE, "x"))
    server.answers = [
        functools.partial(leads_to, server.url.replace("127.0.0.1", "localhost") + "2"),
        functools.partial(whole, file.read_bytes()),
    ]
    wanted = of(file, url=server.url, credentials=credentials)
    archive.fetch(wanted, tmp_path / "to", threading.Event())
    assert server.seen == [("/code.tar", header), ("/code.tar2", None)]


def test_a_volume_that_is_silent_is_given_up(tmp_path: Path, cancelled: threading.Event) -> None:
    os.mkfifo(tmp_path / "file")  # open() blocks for ever, because nobody writes
    wanted = Archive((tmp_path / "file").as_uri(), "0" * 64, None, 0.3, {})
    with pytest.raises(LauncherError, match=r"code\.archive file:.* has not answered") as error:
        archive.fetch(wanted, tmp_path / "to" / "here", cancelled)
    assert error.value.exit_code is ExitCode.IO
    assert list((tmp_path / "to").iterdir()) == []
    with contextlib.suppress(OSError):  # unless the thread has not opened it yet
        os.close(os.open(tmp_path / "file", os.O_WRONLY | os.O_NONBLOCK))  # ends the thread


def test_a_cancelled_download_is_not_read_to_its_end(
    tmp_path: Path, server: Server, cancelled: threading.Event
) -> None:
    over = threading.Event()

    def stops(handler: Handler) -> None:
        part(bytes(10), handler)
        cancelled.set()
        over.wait(30)

    server.answers = [stops]
    wanted = of(tar(tmp_path / "file"), url=server.url, timeout=20)
    try:
        with pytest.raises(LauncherError, match=": cancelled") as error:
            archive.fetch(wanted, tmp_path / "to", cancelled)
    finally:
        over.set()
    assert error.value.exit_code is ExitCode.TRY_AGAIN


def test_a_cancelled_download_does_not_wait_for_the_next_try(
    tmp_path: Path, server: Server, cancelled: threading.Event
) -> None:
    server.answers = [functools.partial(says, 503)]
    wanted = of(tar(tmp_path / "file"), url=server.url, timeout=600)
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(LauncherError, match=": cancelled"):
        archive.fetch(wanted, tmp_path / "to", cancelled)
