"""The launcher's message about a document that is no job."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.shared.exits import ExitCode, LauncherError
from launcher.shared.job import job_of


def refusal(changed: Any) -> str:
    with pytest.raises(LauncherError) as error:
        job_of(changed)
    assert error.value.exit_code is ExitCode.CONFIGURATION
    return error.value.reason
