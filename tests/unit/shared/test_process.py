"""The output of a process: its lines, and the last of them."""

from __future__ import annotations

import pytest

from launcher.shared.process import KEPT_LINES, LINE_BYTES, Output

BAR = (
    "\b" * 60
    + "\r\x1b[1m{}/1563\x1b[0m \x1b[32m━━━\x1b[0m\x1b[37m━━━\x1b[0m \x1b[1m3s\x1b[0m 2ms/step"
)


def last(text: str) -> tuple[str, ...]:
    output = Output()
    output.take(text.encode())
    output.take(b"\n")
    return output.last_lines()


def test_lines_end_with_a_line_feed_or_where_a_bar_is_drawn_again() -> None:
    output = Output()
    taken = [
        output.take(data)
        for data in (
            b"one\ntw",
            b"o\r\n\n",
            b"10%",
            b"\r20%",
            b"\b\b\b30%\r",
            "\xe4".encode(),
            b"\n",
        )
    ]
    assert taken == [["one", ""], ["two"], [""], ["10%", ""], ["20%", "30%"], [""], ["\xe4"]]


def test_bytes_of_one_character_can_come_apart() -> None:
    output = Output()
    taken = [output.take(bytes([byte])) for byte in "━\n".encode()]
    assert taken[-1] == ["━"]


def test_a_line_of_any_length_takes_little_memory() -> None:
    output = Output()
    for _ in range(100):
        output.take(b"x" * LINE_BYTES)
    assert len(output.rest) <= LINE_BYTES
    output.take(b"\nnext\n")
    assert [len(line) for line in output.last_lines()] == [500, 4]


def test_a_bar_leaves_one_line_as_on_a_terminal() -> None:
    bars = "".join(BAR.format(number) for number in range(1, 100))
    assert last(f"Epoch 1/10\n{bars}\nsaved") == (
        "Epoch 1/10",
        "99/1563 ━━━━━━ 3s 2ms/step",
        "saved",
    )
    assert last("\r10%|#   |\r20%|##  |\rCUDA error: out of memory") == (
        "CUDA error: out of memory",
    )
    assert last("kept\r\nafter") == ("kept", "after")


def test_a_bar_does_not_hide_the_message_after_it() -> None:
    bars = "".join(BAR.format(number) for number in range(1, 100))
    error = 'Traceback (most recent call last):\n  File "train.py", line 3\nValueError: no\n'
    lines = last(f"Epoch 1/10\n{bars}{error}")
    assert lines[0] == "Epoch 1/10"
    assert lines[1].endswith("2ms/stepTraceback (most recent call last):")
    assert lines[2:] == ('  File "train.py", line 3', "ValueError: no")


ERROR = """Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
  File "train.py", line 3, in main
    raise ValueError("no")
ValueError: no
"""
AFTER = "".join(f"line {number}\n" for number in range(100))


@pytest.mark.parametrize("before", ["", "TypeError\n", ERROR.replace("no", "an older one")])
def test_the_end_of_the_last_traceback_is_kept(before: str) -> None:
    lines = last(before + ERROR + AFTER)
    assert len(lines) == KEPT_LINES
    assert lines[-7:-5] == ("line 99", "the last traceback, from before:")
    assert lines[-5:] == tuple(ERROR.splitlines()[-5:])


def test_a_traceback_among_the_last_lines_is_not_repeated() -> None:
    assert last(ERROR) == tuple(ERROR.splitlines())
    assert last(ERROR + "exit") == (*ERROR.splitlines(), "exit")
    assert len(last(AFTER)) == KEPT_LINES


UNUSED = """ERROR:tensorflow:==================================
Object was never used (type <class 'tensorflow.python.framework.ops.Tensor'>):
<tf.Tensor 'report_uninitialized_variables_1/boolean_mask/GatherV2:0' shape=(?,) dtype=string>
If you want to mark it as used call its "mark_used()" method.
It was originally created here:
  File "train.py", line 9, in <module>
    main()  File "train.py", line 5, in main
==================================
"""


def test_tensorflows_objects_that_were_never_used_are_left_out() -> None:
    assert last(ERROR + UNUSED * 30 + "exit") == (*ERROR.splitlines(), "exit")
    cut = UNUSED[: UNUSED.index("If you")]
    assert last(cut + ERROR) == tuple(ERROR.splitlines()), (
        "such a message that is cut hides nothing"
    )
