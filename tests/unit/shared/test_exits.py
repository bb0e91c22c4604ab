"""Exit codes, and the termination message, the one line that Kubernetes keeps."""

from __future__ import annotations

import json
import signal

import pytest

from launcher.shared.exits import (
    TERMINATION_MESSAGE_BYTES,
    End,
    ExitCode,
    Phase,
    describe,
    end_of,
    from_wait,
)


@pytest.mark.parametrize(
    ("returncode", "code"),
    [(0, 0), (1, 1), (255, 255), (-15, 143), (-9, 137), (-11, 139), (-signal.SIGRTMIN, 162)],
)
def test_a_signal_becomes_128_plus_its_number(returncode: int, code: int) -> None:
    assert from_wait(returncode) == code


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exit code 0"),
        (1, "exit code 1"),
        (128, "exit code 128"),
        (137, "killed by SIGKILL (exit code 137)"),
        (143, "killed by SIGTERM (exit code 143)"),
        (255, "exit code 255"),
    ],
)
def test_a_code_is_described_as_a_signal_only_if_there_is_one(code: int, text: str) -> None:
    assert describe(code) == text


def test_the_published_codes_do_not_change() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "USAGE": 64,
        "CODE_MISSING": 66,
        "PEERS_UNAVAILABLE": 69,
        "BUG": 70,
        "IO": 74,
        "TRY_AGAIN": 75,
        "CONFIGURATION": 78,
        "DEADLINE": 124,
        "COMMAND_NOT_EXECUTABLE": 126,
        "COMMAND_NOT_FOUND": 127,
    }


def test_a_termination_message_holds_every_field() -> None:
    end = End(Phase.FAILED, 3, "worker-1 failed", "worker-1", ("one", "two"))
    assert json.loads(end.message()) == {
        "phase": "Failed",
        "task": "worker-1",
        "exitCode": 3,
        "reason": "worker-1 failed",
        "lastLines": ["one", "two"],
    }
    assert "\n" not in end.message()


def test_a_message_says_that_the_run_had_already_ended() -> None:
    end = End(Phase.SUCCEEDED, 0, "worker-0 ended with exit code 0", found=True)
    assert json.loads(end.message())["reason"] == "ended already: worker-0 ended with exit code 0"


def test_an_end_is_read_from_its_record_and_from_its_message() -> None:
    end = End(Phase.STOPPED, 143, "stopped by SIGTERM", "worker-1", ("one", "two"))
    assert end_of(end.record()) == End(Phase.STOPPED, 143, "stopped by SIGTERM", "worker-1")
    assert end_of(json.loads(end.message())) == end


@pytest.mark.parametrize(
    "record",
    [{}, {"phase": "Lost", "exitCode": 256, "reason": "", "lastLines": 1}, {"exitCode": "0"}],
)
def test_a_broken_record_is_read_as_a_failure(record: dict[str, object]) -> None:
    assert end_of(record) == End(Phase.FAILED, int(ExitCode.BUG), "")


@pytest.mark.parametrize("character", ["x", "é", "日", "😀", '"', "\n", "\0", "\udcff"])
@pytest.mark.parametrize("width", [80, 200, 500])
def test_a_termination_message_with_its_line_break_fits_the_limit(
    character: str, width: int
) -> None:
    lines = tuple(f"{i} " + character * width for i in range(60))
    text = End(Phase.FAILED, 1, "because", "worker-0", lines).message()
    assert len(text.encode()) + 1 <= TERMINATION_MESSAGE_BYTES
    told = json.loads(text)
    assert told["reason"] == "because"
    kept = told["lastLines"]
    assert tuple(kept) == lines[len(lines) - len(kept) :], "the oldest lines are dropped first"
    # One line more would not have fitted.
    more = json.dumps({**told, "lastLines": lines[len(lines) - len(kept) - 1 :]})
    assert len(more) + 1 > TERMINATION_MESSAGE_BYTES


@pytest.mark.parametrize("size", range(4060, 4080))
def test_a_message_near_the_limit_reaches_kubernetes_whole(size: int) -> None:
    line = End(Phase.FAILED, 1, "x" * (size - 60)).message() + "\n"
    assert json.loads(line.encode()[-TERMINATION_MESSAGE_BYTES:])["phase"] == "Failed"


@pytest.mark.parametrize("character", ["x", "😀"])
def test_a_long_reason_is_cut_by_as_little_as_needed(character: str) -> None:
    text = End(Phase.FAILED, 1, character * 9000, "worker-0", ("line",)).message()
    assert TERMINATION_MESSAGE_BYTES - 20 < len(text) < TERMINATION_MESSAGE_BYTES
    told = json.loads(text)
    assert told["reason"]
    assert set(told["reason"]) == {character}


def test_a_much_too_long_task_name_still_gives_a_termination_message() -> None:
    assert json.loads(End(Phase.FAILED, 1, "", "x" * 9000).message())["exitCode"] == 1
