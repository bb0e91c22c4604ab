"""Helm and `launcher local` read the same scalars as the same words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launcher.local.values import job_document, job_from, read_values
from launcher.shared.exits import ExitCode, LauncherError
from tests.chart.render import template

# A ␣ stands for a space.
WORDS = """
y n Y N yes No on OFF true True TRUE tRue yEs false False
2024-01-01 2024-1-2 2001-12-14t21:59:43.10-05:00 2024-13-45 16:9 12:30:00 190:20:30.15 20:00 1:2:3
0 -0 00 -00 -0.0 0.0 1 -1 +5 007 017 089 0o17 0O17 0o8 0x1F 0X1f -0x1f +0x1f 0xZ 0b11
-0b11 0b2 0B1
1_000 1__0 _1 1_ 0_8 685_230.15 0b_11 1,000 1.0 1. .5 .5_0 ._5 .5e3 -.5 +.5
-1.5 1.50 3.14159265358979
1e3 1E3 1e+3 1e-3 +12e03 1.5E-10 1e-7 0.000001 0.0000001 5e-324 1e400 1e 1e0_5 e3 1e3x
0e0 123456789.123
9007199254740991 -9007199254740991 123456789012 1e15 . + -- .. = << NaN nan inf -inf infinity
"007" '1.0' "on" 'null' "2024-01-01" !!str␣5 !!str␣null !!int␣"5" !!float␣5 !!foo␣bar !!binary␣aGk=
a/b http://e.com:80/x --rate=1e-5 --x a#b 1.2.3 v1 größe 1e1e1 0x 1-2 12h 5% 1/2 ٣
"""
SCALARS = WORDS.split()


@pytest.fixture(scope="module")
def text() -> str:
    words = "".join(f"    - {scalar}\n".replace("␣", " ") for scalar in SCALARS)
    return f"code: {{image: {{path: /app}}}}\nprogram:\n  args:\n{words}"


def local_words(text: str, folder: Path) -> list[str]:
    (folder / "values.yaml").write_text(text, encoding="utf-8")
    mistakes: list[str] = []
    document = job_document(read_values([folder / "values.yaml"], mistakes), folder, mistakes)
    return list(job_from(document, 1, mistakes).program.args)


def test_helm_and_local_read_a_hundred_scalars_as_the_same_words(
    text: str, helm: str, tmp_path: Path
) -> None:
    assert len(SCALARS) >= 100
    done = template(helm, "mnist", text)
    assert done.returncode == 0, done.stderr
    (job,) = (
        yaml.safe_load(each["data"]["job.json"])
        for each in yaml.safe_load_all(done.stdout)
        if each["kind"] == "ConfigMap" and "job.json" in each["data"]
    )
    assert dict(zip(SCALARS, local_words(text, tmp_path))) == dict(
        zip(SCALARS, job["program"]["args"])
    )


@pytest.mark.parametrize(
    "args", ["[.inf]", "[.nan]", "[!!int x]", "[~]", "[9007199254740992]", "[-1e300]", "[{a: 1}]"]
)
def test_helm_and_local_refuse_the_same_scalars(args: str, helm: str, tmp_path: Path) -> None:
    text = f"code: {{image: {{path: /app}}}}\nprogram: {{args: {args}}}\n"
    assert template(helm, "mnist", text).returncode != 0
    with pytest.raises(LauncherError) as error:
        local_words(text, tmp_path)
    assert error.value.exit_code is ExitCode.CONFIGURATION
