"""Which messages tasks and the controller exchange, and which are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from launcher.shared.exits import LauncherError
from launcher.shared.identity import Task
from launcher.shared.protocol import (
    REPORT_BYTES,
    Action,
    ChildReport,
    Directive,
    Holds,
    Leader,
    Report,
    decode_directive,
    decode_report,
    encode_directive,
    encode_report,
)
from tests.unit.jobs import document, job

BARE = Report(Task("worker", 0), "one", 0, "", "", None, None, can_start=False)
HOLDS = Holds(Leader(4, "me"), Action.WAIT, 3, 1, "run", "abc", "def", "ghi")
FULL = Report(
    task=Task("ps", 12),
    incarnation="two",
    sequence=7,
    address="10.1.2.3",
    revision="mnist-ps-5d4f",
    holds=HOLDS,
    child=ChildReport(
        2,
        143,
        True,
        1.5,
        "killed",
        ("größe", "\0\ud800"),
        up=True,
        hung=True,
        quiet=61.5,
        global_step=7,
        total_steps=9,
        epoch="2 of 3",
    ),
    can_start=True,
    stands_in=True,
    called=True,
    long_poll=True,
)


@pytest.mark.parametrize("report", [BARE, FULL, replace(FULL, child=ChildReport(2))])
def test_a_report_arrives_as_it_was_sent(report: Report) -> None:
    assert decode_report(encode_report(report)) == report


@pytest.mark.parametrize("action", list(Action))
def test_a_directive_arrives_as_it_was_sent(action: Action) -> None:
    directive = Directive(Leader(4, "me"), action, 3, 1, job())
    assert decode_directive(encode_directive(directive)) == directive
    digests = (job().run, job().digest, job().program_digest, job().cluster_digest)
    assert directive.holds() == Holds(Leader(4, "me"), action, 3, 1, *digests)


def test_an_answer_without_news_arrives_as_none() -> None:
    assert decode_directive(encode_directive(None)) is None


@pytest.mark.parametrize("character", ["x", "日", "😀", "\0", "\udcff"])
def test_a_report_is_never_longer_than_a_controller_accepts(character: str) -> None:
    lines = tuple(f"{i} " + character * 500 for i in range(20))
    child = ChildReport(1, 1, False, 0.0, character * 60_000, lines)
    text = encode_report(replace(FULL, child=child))
    assert len(text) <= REPORT_BYTES
    told = decode_report(text).child
    assert told
    assert told.exit_code == 1
    assert told.reason
    assert child.reason.startswith(told.reason)
    assert told.last_lines == lines[len(lines) - len(told.last_lines) :]


def test_a_report_of_an_older_launcher_has_no_epoch() -> None:
    message = json.loads(encode_report(FULL))
    del message["child"]["epoch"]
    told = decode_report(json.dumps(message).encode()).child
    assert told
    assert told.epoch == ""


def test_a_report_that_fits_is_not_cut() -> None:
    lines = tuple(f"{i} " + "日" * 500 for i in range(20))
    report = replace(FULL, child=ChildReport(1, 1, False, 0.0, "reason", lines))
    assert decode_report(encode_report(report)) == report


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 60000,
        b"1" * 10000,
        b'{"version": 1}',
        b'{"version": 1, "task": {}}',
    ],
)
def test_a_text_that_is_no_message_is_refused(text: bytes) -> None:
    with pytest.raises(LauncherError, match="the message is "):
        decode_report(text)
    if b"version" not in text:
        with pytest.raises(LauncherError, match="the message is "):
            decode_directive(text)


@pytest.mark.parametrize(
    ("path", "value", "mistake"),
    [
        ("version", 2, "version must be 1; got 2"),
        ("task", "boss-0", "task must be a role and an ordinal like worker-0; got 'boss-0'"),
        ("task", "ps-1234567", "task must be a role and an ordinal"),
        ("task", None, "task must be a string"),
        ("incarnation", "", 'incarnation must be a string; got ""'),
        ("incarnation", 3, "incarnation must be a string; got 3"),
        ("sequence", -1, "sequence must be a whole number from 0"),
        ("sequence", 2**53 + 1, "sequence must be a whole number from 0"),
        ("sequence", 1.5, "sequence must be a whole number from 0"),
        ("sequence", True, "sequence must be a whole number from 0"),
        ("address", None, "address must be an IP address"),
        ("revision", None, "revision must be a string"),
        ("can_start", "yes", "can_start must be true or false"),
        ("stands_in", None, "stands_in must be true or false"),
        ("long_poll", 1, "long_poll must be true or false"),
        ("holds", [], "holds must be a mapping"),
        ("holds.action", "explode", "holds.action must be one of wait, run, stand-in, end"),
        ("holds.action", {}, "holds.action must be one of wait, run, stand-in, end"),
        ("holds.generation", "3", "holds.generation must be a whole number"),
        ("holds.charged", None, "holds.charged must be a whole number"),
        ("holds.job_digest", "", "holds.job_digest must be a string"),
        ("holds.run", None, "holds.run must be a string"),
        ("holds.program_digest", "", "holds.program_digest must be a string"),
        ("holds.cluster_digest", 1, "holds.cluster_digest must be a string"),
        ("holds.leader", None, "holds.leader must be a mapping"),
        ("holds.leader.number", -1, "holds.leader.number must be a whole number"),
        ("holds.leader.id", "", "holds.leader.id must be a string"),
        ("child", "x", "child must be a mapping"),
        ("child.generation", -1, "child.generation must be a whole number"),
        ("child.exit_code", 256, "child.exit_code must be a whole number from 0 to 255"),
        ("child.exit_code", -15, "child.exit_code must be a whole number from 0 to 255"),
        ("child.ago", float("nan"), "child.ago must be seconds"),
        ("child.ago", float("inf"), "child.ago must be seconds"),
        ("child.ago", -1, "child.ago must be seconds"),
        ("child.up", 1, "child.up must be true or false"),
        ("child.hung", None, "child.hung must be true or false"),
        ("child.global_step", -1, "child.global_step must be a whole number"),
        ("child.global_step", 1.5, "child.global_step must be a whole number"),
        ("child.total_steps", 2**53 + 1, "child.total_steps must be a whole number"),
        ("child.epoch", 2, "child.epoch must be a string"),
        ("child.reason", 5, "child.reason must be a string"),
        ("child.last_lines", ["a", 1], "child.last_lines must be a list of strings"),
        ("child.last_lines", "a", "child.last_lines must be a list of strings"),
    ],
)
def test_a_wrong_report_is_refused_and_its_key_is_named(
    path: str, value: Any, mistake: str
) -> None:
    message = json.loads(encode_report(FULL))
    *parents, key = path.split(".")
    at = message
    for parent in parents:
        at = at[parent]
    at[key] = value
    with pytest.raises(LauncherError) as error:
        decode_report(json.dumps(message).encode())
    assert mistake in error.value.reason


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("action", "sleep", "directive.action must be one of wait, run, stand-in, end"),
        ("leader", "me", "directive.leader must be a mapping"),
        ("leader", {"number": 1}, "directive.leader.id must be a string"),
        ("generation", -1, "directive.generation must be a whole number"),
        ("charged", None, "directive.charged must be a whole number"),
        ("job", document(version=2), "job.json has version 2; this launcher reads version 1"),
        ("job", None, "job.json has version null"),
        ("job", document(mode="x"), "mode must be one of parameter-server"),
    ],
)
def test_a_wrong_directive_is_refused_and_its_key_is_named(
    key: str, value: Any, mistake: str
) -> None:
    message = json.loads(encode_directive(Directive(Leader(1, "me"), Action.RUN, 1, 0, job())))
    message["directive"][key] = value
    with pytest.raises(LauncherError) as error:
        decode_directive(json.dumps(message).encode())
    assert mistake in error.value.reason
