"""The run's progress as lines of the log."""

from __future__ import annotations

from launcher.shared.protocol import Report

LEAST_SECONDS = 5.0  # between two lines


class Progress:
    """Turns the steps that the chief reports into lines, at least LEAST_SECONDS apart."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._at = 0.0

    def line(self, report: Report, now: float) -> str:
        """The line that is due, or nothing. Its steps per second are those of all workers."""
        child = report.child
        if not child or child.global_step is None or child.global_step == self._step:
            return ""
        before, seconds = self._step, now - self._at
        if before is not None and seconds < LEAST_SECONDS:
            return ""
        self._step, self._at = child.global_step, now
        text = f"step {child.global_step}"
        text += f" of {child.total_steps}" if child.total_steps else ""
        if before is not None and child.global_step > before:
            rate = (child.global_step - before) / seconds
            text += f", {rate:.1f} steps per second"
            if child.total_steps and child.total_steps > child.global_step:
                text += f", {_duration((child.total_steps - child.global_step) / rate)} left"
        return text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
