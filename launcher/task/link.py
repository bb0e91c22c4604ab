"""A task's connection to the controller, with one HTTP/1.1 request at a time.

The controller may keep a request open until it has an answer.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
import time
from dataclasses import replace
from typing import Callable

from launcher.shared.exits import LauncherError
from launcher.shared.log import say
from launcher.shared.protocol import (
    DIRECTIVE_BYTES,
    HOLD_SECONDS,
    PATH,
    Action,
    Directive,
    Report,
    decode_directive,
    encode_report,
)

SAY_SECONDS = 30.0
PASSING_SECONDS = 3.0  # a shorter outage is not logged
LONGEST_BACKOFF = 2.0  # each upgrade starts a new controller, which tasks should find soon
FINISH_SECONDS = 1.0
CONNECT_SECONDS = 3.0  # DNS may return an earlier controller's address for 30 s


class Link:
    """Sends the latest report, and hands over each directive that comes back.

    While the controller cannot be reached, the link retries for ever, with backoff and jitter, and
    logs a line every 30 s. It calls `received` on its own thread, then waits for the next report:
    so the directive that a report says the task holds is the one that the task really follows.
    """

    def __init__(
        self, controller: tuple[str, int], first: Report, received: Callable[[Directive], None]
    ) -> None:
        self._controller = controller
        self._received = received
        self._lock = threading.Lock()
        self._report = first
        self._sent_at = time.monotonic()
        self._changed = threading.Event()
        self._pending: socket.socket | None = None
        self._given_up = False
        self._connected = False
        self._finished = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def send(self, report: Report) -> None:
        """Replaces the report. An open request with the old report is dropped."""
        with self._lock:
            self._report = report
            self._sent_at = time.monotonic()
            self._changed.set()
            if self._pending:
                self._given_up = True
                with contextlib.suppress(OSError):
                    self._pending.shutdown(socket.SHUT_RDWR)

    def finish(self, report: Report) -> None:
        """Sends the last report. If a controller is connected, waits a moment until it has it."""
        self.send(replace(report, long_poll=False))
        if self._connected:
            self._finished.wait(FINISH_SECONDS)

    def _run(self) -> None:
        host, port = self._controller
        connection = http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        outage = _Outage(f"the controller {host}:{port}")
        while True:
            try:
                directive = self._exchange(connection)
            except (OSError, UnicodeError, http.client.HTTPException, LauncherError) as error:
                connection.close()
                if self._given_up:  # by send(): there is a newer report
                    self._given_up = False
                    continue
                self._connected = False
                holds = self._report.holds
                # After the end of the run the controller has usually exited.
                quiet = holds is not None and holds.action is Action.END
                time.sleep(outage.failed(error, quiet))
                continue
            outage.over()
            self._connected = True
            if directive:
                self._received(directive)
                self._changed.wait()
            else:
                connection.close()  # by now the Service may select another controller

    def _exchange(self, connection: http.client.HTTPConnection) -> Directive | None:
        if connection.sock is None:
            connection.connect()
            assert connection.sock
            connection.sock.settimeout(HOLD_SECONDS + 10)
        with self._lock:
            report = _aged(self._report, time.monotonic() - self._sent_at)
            self._changed.clear()
            self._pending = connection.sock
            self._given_up = False
        try:
            connection.request("POST", PATH, encode_report(report))
            response = connection.getresponse()
            body = response.read(DIRECTIVE_BYTES + 1)
        finally:
            with self._lock:
                self._pending = None
                if self._given_up:  # send() has shut it down, even if the answer came first
                    connection.close()
        if response.status != 200:
            text = body[:500].decode(errors="replace")
            raise http.client.HTTPException(f"it answered {response.status}: {text}")
        if len(body) > DIRECTIVE_BYTES:
            raise http.client.HTTPException(f"its answer has more than {DIRECTIVE_BYTES} bytes")
        if not report.long_poll:
            self._finished.set()
        return decode_directive(body)


class _Outage:
    """While a controller does not answer: when to retry, and what to log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._lost_at = self._said_at = time.monotonic()

    def failed(self, error: Exception, quiet: bool) -> float:
        """Another try has failed. Returns the seconds to wait before the next one."""
        now = time.monotonic()
        if self._failures == 0:
            self._lost_at = now
            self._said_at = now - SAY_SECONDS + PASSING_SECONDS
        self._failures += 1
        if now - self._said_at >= SAY_SECONDS and not quiet:
            self._said_at = now
            seconds = now - self._lost_at
            say(f"no valid answer from {self._name} for {seconds:.0f} s; retrying: {error}")
        delay = min(LONGEST_BACKOFF, 0.1 * 2.0 ** min(self._failures, 10))
        return delay * random.uniform(0.5, 1.0)

    def over(self) -> None:
        """The controller answers."""
        if self._failures and self._said_at > self._lost_at:
            say(f"{self._name} answers")
        self._failures = 0


def _aged(report: Report, seconds: float) -> Report:
    """The report, `seconds` after it was made, with that time added to the child's times."""
    child = report.child
    if child is None or (child.exit_code is None and not child.quiet):
        return report
    key = "quiet" if child.exit_code is None else "ago"
    return replace(report, child=replace(child, **{key: getattr(child, key) + seconds}))
