"""The benchmark's statistics, table and proxy. `make bench` does the measuring."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from launcher.shared.job import job_of
from tests.bench import scale
from tests.bench.delay import proxy
from tests.bench.measure import Comparison, Row, Side, compare, duration, table


def test_both_sides_run_in_turns_after_one_unmeasured_run() -> None:
    ran: list[str] = []
    times: Iterator[int] = iter(range(100, 200))

    def side(name: str) -> Side:
        def run() -> dict[str, float]:
            ran.append(name)
            return {"first": next(times), "last": 1000}

        return Side(name, run)

    rows = compare(Comparison("c", side("a"), side("b"), rounds=9), rounds=3)
    assert ran == ["a", "b"] * 4
    assert rows == [
        Row("c: first", [102, 104, 106], [103, 105, 107]),
        Row("c: last", [1000] * 3, [1000] * 3),
    ]


def test_a_controller_reads_the_run_of_a_thousand_tasks() -> None:
    assert len(job_of(scale.document(1000)).tasks) == 1000


def test_both_sides_are_compared_round_by_round() -> None:
    row = Row("r", [1.0, 10.0, 2.0], [2.0, 11.0, 2.5])  # a slow round is slow on both sides
    assert row.extra == 1.0
    assert row.ratios == [2.0, 1.1, 1.25]


def test_the_proxy_delays_bytes_and_keeps_their_order() -> None:
    sent = [f"{i} ".encode() * 500 for i in range(200)]
    whole = b"".join(sent)

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as reader:
            connection.sendall(reader.read(len(whole)))
            assert reader.read() == b""  # the end is passed on too

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=[listening])
        server.start()
        with (
            proxy(0.2, listening.getsockname()[:2]) as (port,),
            socket.create_connection(("127.0.0.1", port)) as near,
            near.makefile("rb") as reader,
        ):
            begin = time.monotonic()
            for data in sent:
                near.sendall(data)
            assert reader.read(len(whole)) == whole
            assert time.monotonic() - begin >= 2 * 0.2
        server.join()


def test_the_table_shows_both_sides_and_their_difference() -> None:
    rows = [Row("short", [0.010, 0.012], [0.020, 0.024]), Row("a longer run", [10.0], [9.5])]
    assert table(rows).splitlines() == [
        "              by hand   tfrun    extra  ratio  lowest..highest  rounds",
        "short           11 ms   22 ms    11 ms   2.00       2.00..2.00       2",
        "a longer run  10.00 s  9.50 s  -500 ms   0.95       0.95..0.95       1",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0 ms"), (0.9, "900 ms"), (-0.02, "-20 ms"), (1.5, "1.50 s")]
)
def test_durations_are_written_in_milliseconds_or_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text
