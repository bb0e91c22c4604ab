"""The run's progress as lines of the log."""

from __future__ import annotations

from launcher.shared.protocol import Report

LEAST_SECONDS = 5.0  # between two lines


class Progress:
    """Turns what the chief reports into lines, at least LEAST_SECONDS apart."""

    def __init__(self) -> None:
        self._counts: tuple[str, int | None] = ("", None)
        self._at = float("-inf")

    def line(self, report: Report, now: float) -> str:
        """The line that is due, or nothing. Its steps per second are those of all workers."""
        child, before, seconds = report.child, self._counts, now - self._at
        if not child or (child.epoch, child.global_step) in (("", None), before):
            return ""
        if seconds < LEAST_SECONDS:
            return ""
        step, total = child.global_step, child.total_steps
        self._counts, self._at = (child.epoch, step), now
        parts = [f"epoch {child.epoch}"] if child.epoch else []
        if step is not None:
            parts.append(f"step {step} of {total}" if total else f"step {step}")
            if before[1] is not None and step > before[1]:
                rate = (step - before[1]) / seconds
                parts.append(f"{rate:.1f} steps per second")
                if total and total > step and not child.epoch:  # may be the epoch's total
                    parts.append(f"{_duration((total - step) / rate)} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
