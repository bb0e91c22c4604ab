"""The largest code.inline fits into Helm's own record of a release.

Helm keeps a release in a Secret: its JSON, compressed by gzip, in base64. Kubernetes accepts at
most 1 MiB. Nothing here installs: Helm 4 prints the JSON with `--dry-run=client`, and we encode it
as Helm does. Helm 3 needs a cluster for a dry run; its JSON has the same parts.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
from typing import Any

import pytest

from launcher.shared.sources import INLINE_BYTES, _json_bytes
from tests.chart.render import CHART, NAMESPACE, run_helm, template

SECRET_BYTES = 1024 * 1024
# The chart grows. Helm 3 compresses and counts a little differently.
SPARE_BYTES = 32 * 1024
ASCII = "".join(c for c in map(chr, range(32, 127)) if c not in '<>&"\\')
ALPHABETS = {"ascii": ASCII, "letters": "".join(map(chr, range(0xA1, 0x800)))}


def incompressible(alphabet: str) -> str:
    """A text of random characters that makes `code.inline` as large as it may be."""
    room = INLINE_BYTES - _json_bytes({"train.py": ""})
    chosen = random.Random(1)
    text = "".join(chosen.choices(alphabet, k=room)).encode()[:room]
    return text.decode(errors="ignore")


def encoded(release: Any) -> int:
    """The bytes of Helm's record: encodeRelease in pkg/storage/driver/util.go."""
    text = json.dumps(release, ensure_ascii=False, separators=(",", ":")).encode()
    return len(base64.b64encode(gzip.compress(text, 9)))


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_the_largest_inline_code_can_be_installed_and_upgraded(alphabet: str) -> None:
    inline = {"train.py": incompressible(ALPHABETS[alphabet])}
    assert INLINE_BYTES - 2 <= _json_bytes(inline) <= INLINE_BYTES
    values = {"code": {"inline": inline}}
    done = run_helm(
        "helm",
        *("install", "mnist", CHART, "--namespace", NAMESPACE, "--dry-run=client"),
        *("--output", "json", "--values", "-"),
        values=json.dumps(values),
    )
    assert done.returncode == 0, done.stderr
    release = json.loads(done.stdout)
    assert release["config"] == values
    assert encoded(release) < SECRET_BYTES - SPARE_BYTES
    three = {**release, "manifest": template("helm3", "mnist", json.dumps(values)).stdout}
    assert inline["train.py"][:40] in three["manifest"]
    # `helm upgrade --reuse-values` puts the old values into the chart's defaults too.
    for each in (release, three):
        each["chart"]["values"]["code"]["inline"] = inline
        assert encoded(each) < SECRET_BYTES - SPARE_BYTES
