"""Asks an NFS server whether an exported path exists, as a client of NFS version 4.0.

A pod whose NFS volume cannot be mounted never starts, so its task cannot report why. The controller
asks the server instead, by one COMPOUND of PUTROOTFH and LOOKUPs, which leaves no state there.
https://www.rfc-editor.org/rfc/rfc7530 https://www.rfc-editor.org/rfc/rfc5531
"""

from __future__ import annotations

import enum
import socket
import struct
from dataclasses import dataclass

PORT = 2049
TIMEOUT_SECONDS = 3.0
REPLY_BYTES = 64 * 1024

_LAST_FRAGMENT = 0x80000000
_XID = 0x74667275
_CALL, _REPLY = 0, 1
_RPC_VERSION, _PROGRAM, _NFS_VERSION, _COMPOUND = 2, 100003, 4, 1
_AUTH_NONE, _AUTH_SYS = 0, 1
_PUTROOTFH, _LOOKUP = 24, 15
_NOENT, _NOTDIR = 2, 20


class Finding(enum.Enum):
    """What is known about a path."""

    FINE = "fine"  # or unclear from here: only the kubelet's mount shows it
    UNREACHABLE = "unreachable"
    MISSING = "missing"


@dataclass(frozen=True)
class Diagnosis:
    """A finding, and the text to log; empty if it is fine."""

    finding: Finding
    text: str = ""


def diagnose(server: str, path: str, port: int = PORT) -> Diagnosis:
    """Whether the server answers and has the path; FINE if unclear. Never raises."""
    components = [part for part in path.split("/") if part]
    try:
        with socket.create_connection((server, port), timeout=TIMEOUT_SECONDS) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.sendall(_call(components))
            reply = _read(connection)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Diagnosis(
            Finding.UNREACHABLE,
            f"code.nfs.server {server} does not answer on port {port}: {reason}",
        )
    status, done = _parse(reply)
    # We leave out PUTROOTFH and the LOOKUP that failed. A server may export different roots to
    # versions 3 and 4, so a path is surely missing only if its beginning exists.
    found = done - 2
    if status in (_NOENT, _NOTDIR) and 0 < found < len(components):
        there = "/" + "/".join(components[:found])
        return Diagnosis(
            Finding.MISSING,
            f"code.nfs.path {path} must be a folder that {server} exports: "
            f"there is no {components[found]} in {there}",
        )
    return Diagnosis(Finding.FINE)


def _opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


def _call(components: list[str]) -> bytes:
    credential = struct.pack(">I", 0) + _opaque(b"tfrun") + struct.pack(">III", 65534, 65534, 0)
    head = struct.pack(">IIIIII", _XID, _CALL, _RPC_VERSION, _PROGRAM, _NFS_VERSION, _COMPOUND)
    auth = struct.pack(">I", _AUTH_SYS) + _opaque(credential) + struct.pack(">II", _AUTH_NONE, 0)
    lookups = b"".join(struct.pack(">I", _LOOKUP) + _opaque(name.encode()) for name in components)
    minor_version, operations = 0, 1 + len(components)
    body = _opaque(b"") + struct.pack(">III", minor_version, operations, _PUTROOTFH) + lookups
    message = head + auth + body
    return struct.pack(">I", _LAST_FRAGMENT | len(message)) + message


def _read(connection: socket.socket) -> bytes:
    data = b""
    while len(data) < 4 or len(data) - 4 < _length(data):
        chunk = connection.recv(REPLY_BYTES)
        if not chunk or len(data) > REPLY_BYTES:
            break
        data += chunk
    return data[4:]


def _length(data: bytes) -> int:
    (mark,) = struct.unpack(">I", data[:4])
    return int(mark & ~_LAST_FRAGMENT)


def _parse(reply: bytes) -> tuple[int, int]:
    """The status of a COMPOUND, and how many operations have a result; (0, 0) if malformed."""
    try:
        xid, kind, refused, _, verifier = struct.unpack_from(">IIIII", reply)
        offset = 20 + verifier + -verifier % 4
        failed, status, tag = struct.unpack_from(">III", reply, offset)
        offset += 12 + tag + -tag % 4
        (done,) = struct.unpack_from(">I", reply, offset)
    except struct.error:
        return 0, 0
    if (xid, kind, refused, failed) != (_XID, _REPLY, 0, 0):
        return 0, 0
    return status, done
