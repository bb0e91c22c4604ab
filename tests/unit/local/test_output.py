"""In which lines, and when, does the output of a process come?"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from launcher.local import output
from launcher.shared.process import LINE_BYTES
from tests.unit.processes import PATIENCE

Lines = Callable[[bytes], list[bytes]]


@pytest.fixture
def lines() -> Lines:
    """The lines of an output that comes at once, and then ends."""

    def read(data: bytes) -> list[bytes]:
        found: list[bytes] = []
        reader, writer = os.pipe()
        with open(reader, "rb") as stream, open(writer, "wb") as into:

            def write() -> None:
                into.write(data)
                into.close()

            writing = threading.Thread(target=write)
            writing.start()
            output.each_line(stream, found.append)
            writing.join()
        return found

    return read


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\n\n  b \nc\r\n", [b"a", b"", b"  b ", b"c"]),
        (b"no end", [b"no end"]),
        (b"\r1/2\r2/2\nnext\n", [b"2/2", b"next"]),
        (b"1/2\r2/2\r", [b"2/2"]),
        (b"1/2\b\b\b\b\b\b\r2/2\r     \r\ndone\n", [b"2/2", b"done"]),
        (b"".join(b"\r%d/99999" % step for step in range(1, 99999)) + b"\n", [b"99998/99999"]),
    ],
)
def test_a_bar_leaves_one_line(
    lines: Lines, data: bytes, expected: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PART_SECONDS", PATIENCE)
    assert lines(data) == expected


def test_a_line_without_its_end_takes_little_memory(lines: Lines) -> None:
    data = b"x" * (5 * LINE_BYTES)
    found = lines(data + b"\n")
    assert b"".join(found) == data
    assert max(map(len, found)) <= 2 * LINE_BYTES


class Slow:
    """An output that comes in parts."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.into = open(writer, "wb", buffering=0)  # noqa: SIM115 closed by the fixture
        self.found: queue.Queue[bytes] = queue.Queue()
        self.stream = open(reader, "rb")  # noqa: SIM115
        self.thread = threading.Thread(
            target=output.each_line, args=[self.stream, self.found.put], daemon=True
        )
        self.thread.start()

    def next(self) -> bytes:
        return self.found.get(timeout=PATIENCE)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setattr(output, "PART_SECONDS", 0.01)
    made = Slow()
    yield made
    made.into.close()
    made.thread.join(PATIENCE)
    made.stream.close()


def test_a_bar_is_shown_while_it_is_drawn(slow: Slow) -> None:
    for bar in (b"\r10%", b"\r20%", b"\b\b\b30%\r"):
        slow.into.write(bar)
        assert slow.next() == bar.strip(b"\r\b")
    slow.into.write(b"\r30%\rdone\n")
    assert slow.next() == b"done"


def test_a_line_that_was_shown_without_its_end_is_shown_again_only_if_it_goes_on(
    slow: Slow,
) -> None:
    slow.into.write(b"loading")
    assert slow.next() == b"loading"
    slow.into.write(b"\nsaving")
    assert slow.next() == b"saving"
    slow.into.write(b" done\n\nnext\n")
    assert [slow.next() for _ in range(3)] == [b"saving done", b"", b"next"]
