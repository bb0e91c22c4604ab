"""Which error ended a program, and is it a mistake of TensorFlow?"""

from __future__ import annotations

import pytest

from launcher.decisions.errors import error_of, mistake_of

# The ends of programs with TensorFlow 2.21, without some frames and with shorter requests.
TWICE = "The same RunGraph (Worker) request was received twice. goo.gle/debugstr step_id: 7"
ABORTED = "tensorflow.python.framework.errors_impl.AbortedError:"
QUEUE_RUNNER = f"""Traceback (most recent call last):
  File "/code/raw.py", line 24, in <module>
    with sv.managed_session(server.target, config=cfg) as sess:
  File "/lib/tensorflow/python/client/session.py", line 1483, in _call_tf_sessionrun
    return tf_session.TF_SessionRun_wrapper(self._session, options, feed_dict,
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
{ABORTED} From /job:worker/replica:0/task:0:
{TWICE}"""
SESSION = f"""    return tf_session.TF_SessionRun_wrapper(self._session, options, feed_dict,
{ABORTED} From /job:ps/replica:0/task:0:
{TWICE}
During handling of the above exception, another exception occurred:
Traceback (most recent call last):
  File "/code/raw.py", line 26, in <module>
    _, s = sess.run([train, step]); n += 1
           ^^^^^^^^^^^^^^^^^^^^^^^
  File "/lib/tensorflow/python/client/session.py", line 1426, in _do_call
    raise type(e)(node_def, op, message)  # pylint: disable=no-value-for-parameter
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
{ABORTED} Graph execution error:
From /job:ps/replica:0/task:0:
{TWICE}"""
TWO_SERVERS = SESSION.replace(
    f"\nFrom /job:ps/replica:0/task:0:\n{TWICE}",
    f"""
=====================
ABORTED: From /job:worker/replica:0/task:0:
{TWICE}
ABORTED: From /job:ps/replica:0/task:0:
{TWICE}
=====================""",
)
PARTIAL = QUEUE_RUNNER.replace("RunGraph", "PartialRunGraph")

VALUE_ERROR = """Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
ValueError: no data"""
# A MonitoredTrainingSession retries, and the program fails later for another reason.
RETRIED = f"""INFO:tensorflow:An error was raised. Error: From /job:ps/replica:0/task:0:
{TWICE}
"""
CANCELLED = VALUE_ERROR.replace("ValueError: no data", "UnavailableError: Socket closed")


@pytest.mark.parametrize("text", [QUEUE_RUNNER, SESSION, TWO_SERVERS, PARTIAL])
@pytest.mark.parametrize("more", ["", "\nW0000 00:00:1 1 local_rendezvous.cc:412] is aborting"])
def test_a_mistake_of_tensorflow_is_named(text: str, more: str) -> None:
    lines = (text + more).splitlines()
    assert mistake_of(1, lines) == "TensorFlow's RunGraph mistake"
    assert mistake_of(3, lines) == "", "the program has handled it"


@pytest.mark.parametrize(
    "text",
    [
        "",
        VALUE_ERROR,
        CANCELLED,
        RETRIED + VALUE_ERROR,
        RETRIED + "no data",
        f"ValueError: {TWICE}",
        SESSION.rpartition("Graph execution")[0],
    ],
)
def test_other_ends_are_the_programs(text: str) -> None:
    assert mistake_of(1, text.splitlines()) == ""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ()),
        ("ValueError: no data", ()),
        (VALUE_ERROR, ("ValueError: no data",)),
        (VALUE_ERROR + "\nexit\n  more", ("ValueError: no data", "exit", "  more")),
        ("line 98\nthe last traceback, from before:\n" + VALUE_ERROR, ("ValueError: no data",)),
        (VALUE_ERROR.replace("ValueError: no data", ""), ()),
    ],
)
def test_the_error_stands_below_the_last_traceback(text: str, error: tuple[str, ...]) -> None:
    assert error_of(text.splitlines()) == error
