"""Reads typed values from environment variables, and reports all mistakes at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launcher.shared.exits import fail_with

TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes' default


class Environment:
    """Reads typed values from environment variables and collects every mistake."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.mistakes: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """A string; the default if it is empty or not set."""
        return self.environ.get(name) or default

    def required(self, name: str) -> str:
        """A string that must be set."""
        if not self.environ.get(name):
            self.mistakes.append(f"{name} must be set")
        return self.environ.get(name, "")

    def whole(self, name: str, default: int | None, least: int, most: int) -> int:
        """A whole number from `least` to `most`; without a default it must be set."""
        value = self.environ.get(name, "")
        if value == "" and default is not None:
            return default
        if value.isdecimal() and least <= int(value) <= most:
            return int(value)
        self.mistakes.append(f"{name} must be a whole number from {least} to {most}; got {value!r}")
        return least

    def host_and_port(self, name: str) -> tuple[str, int]:
        """A host and a port, as host:port."""
        host, _, port = self.environ.get(name, "").rpartition(":")
        if host and port.isdecimal() and 0 <= int(port) <= 65535:
            return host, int(port)
        self.mistakes.append(f"{name} must be host:port; got {self.environ.get(name, '')!r}")
        return "", 0

    def flag(self, name: str) -> bool:
        """True or false; false if it is empty or not set."""
        value = self.environ.get(name, "")
        if value not in ("", "true", "false"):
            self.mistakes.append(f"{name} must be true or false; got {value!r}")
        return value == "true"

    def done(self) -> None:
        """Raises LauncherError(CONFIGURATION) with every mistake, if there is one."""
        fail_with(self.mistakes, "the environment")


def termination_log(environ: Mapping[str, str]) -> Path | None:
    """The file for this container's termination message; None if nobody reads one."""
    given = environ.get("TFRUN_TERMINATION_LOG")
    if given is not None:
        return Path(given) if given else None
    return TERMINATION_LOG if TERMINATION_LOG.exists() else None
