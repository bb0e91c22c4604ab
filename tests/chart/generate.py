"""Generates values.schema.json and the table of values in the chart's README from values.yaml.

    python -m tests.chart.generate           # write both
    python -m tests.chart.generate --check   # exit 1 and name what is out of date

values.yaml documents each value in comments right above its key, in this order:

    # @schema
    # minimum: 1              YAML: what the schema cannot derive from the default; optional
    # @schema
    # -- What it is, why      up to the key; a mapping whose keys are declared needs none
    replicas: 2

The grammar is that of helm-schema and helm-docs; neither is needed. Types come from the defaults.
A mapping refuses keys that values.yaml does not name and requires those that it names. A mapping
that is annotated with `additionalProperties` takes any keys, and setting it to null empties it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "tfrun"
BEGIN = "<!-- values: generated from values.yaml by `make docs` -->"
END = "<!-- values: end -->"
TYPES = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array"}


class GrammarError(Exception):
    """values.yaml does not follow the grammar; the message names the key."""


@dataclass(frozen=True)
class Value:
    """One key of values.yaml. Only a mapping of declared keys has `keys`."""

    path: str
    default: Any
    description: str
    annotation: dict[str, Any]
    keys: tuple[Value, ...] | None

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def free_form(self) -> bool:
        return "additionalProperties" in self.annotation


def parse(text: str) -> tuple[Value, ...]:
    """The values that a values.yaml declares, in its order."""
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise GrammarError("values.yaml must be a mapping")
    return _keys(root, yaml.safe_load(text), "", text.splitlines())


def _keys(
    mapping: yaml.MappingNode, defaults: dict[str, Any], prefix: str, lines: list[str]
) -> tuple[Value, ...]:
    values = []
    for key, node in mapping.value:
        path = f"{prefix}{key.value}"
        default = defaults[key.value]
        annotation, description = _comments(lines, key.start_mark.line, path)
        keys = None
        if isinstance(node, yaml.MappingNode) and "additionalProperties" not in annotation:
            keys = _keys(node, default, f"{path}.", lines)
        values.append(Value(path, default, description, annotation, keys))
        if keys is None:
            _insist(bool(description), path, "needs a description: # -- ...")
        else:
            _insist(bool(keys), path, "needs keys, or additionalProperties in a # @schema block")
        if isinstance(default, list):
            _insist("items" in annotation, path, "needs items in a # @schema block")
        if "type" not in annotation:
            _insist(default is not None, path, "needs a type in a # @schema block")
    return tuple(values)


def _insist(holds: bool, path: str, what: str) -> None:
    if not holds:
        raise GrammarError(f"values.yaml: {path} {what}")


def _comments(lines: list[str], key_line: int, path: str) -> tuple[dict[str, Any], str]:
    """The annotation and the description in the comments right above a key."""
    first = key_line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    annotation: list[str] = []
    description: list[str] = []
    inside = False
    for line in lines[first:key_line]:
        text = line.strip().removeprefix("#").removeprefix(" ")
        if text.strip() == "@schema":
            inside = not inside
        elif inside:
            annotation.append(text)
        elif text.startswith("-- "):
            description = [text.removeprefix("-- ")]
        elif description:
            description.append(text)
    _insist(not inside, path, "needs a second # @schema, which ends the block")
    parsed = yaml.safe_load("\n".join(annotation)) or {}
    _insist(isinstance(parsed, dict), path, "needs a mapping in its # @schema block")
    return parsed, " ".join(description).strip()


def schema(values: tuple[Value, ...]) -> dict[str, Any]:
    """The JSON Schema of the values."""
    document = {"$schema": "http://json-schema.org/draft-07/schema#", **_object(values)}
    # What Helm gives a chart that is a dependency of another: the shared values, what `condition`
    # reads, and what `import-values` takes.
    document["properties"]["global"] = {"type": "object"}
    document["properties"]["enabled"] = {"type": "boolean"}
    document["properties"]["exports"] = {"type": "object"}
    return document


def _object(values: tuple[Value, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [value.name for value in values if not value.free_form],
        "properties": {value.name: _property(value) for value in values},
    }


def _property(value: Value) -> dict[str, Any]:
    described = {"description": value.description} if value.description else {}
    if value.keys is not None:
        return described | _object(value.keys) | value.annotation
    kind = "object" if isinstance(value.default, dict) else TYPES.get(type(value.default))
    typed = {"type": kind} if kind else {}
    return described | typed | {"default": value.default} | value.annotation


def table(values: tuple[Value, ...]) -> str:
    """The values as a Markdown table."""
    rows = [
        f"| `{leaf.path}` | `{json.dumps(leaf.default)}` | {leaf.description} |"
        for leaf in leaves(values)
    ]
    return "\n".join(["| Key | Default | Meaning |", "| --- | --- | --- |", *rows])


def leaves(values: tuple[Value, ...]) -> Iterator[Value]:
    """The values that are not mappings of declared keys."""
    for value in values:
        if value.keys is None:
            yield value
        else:
            yield from leaves(value.keys)


def generated(chart: Path = CHART) -> dict[Path, str]:
    """Each generated file and what should be in it."""
    values = parse((chart / "values.yaml").read_text())
    readme = (chart / "README.md").read_text()
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise GrammarError(f"README.md needs the lines {BEGIN} and {END}")
    return {
        chart / "values.schema.json": json.dumps(schema(values), indent=2) + "\n",
        chart / "README.md": f"{before}{begin}\n\n{table(values)}\n\n{end}{after}",
    }


def stale(chart: Path = CHART) -> dict[Path, str]:
    """The generated files that differ from what values.yaml says."""
    return {
        path: text
        for path, text in generated(chart).items()
        if not path.exists() or path.read_text() != text
    }


def main(arguments: list[str] | None = None) -> int:
    """Writes the files, or checks them."""
    parser = argparse.ArgumentParser(prog="python -m tests.chart.generate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    check = parser.parse_args(arguments).check
    try:
        out_of_date = stale()
    except GrammarError as error:
        print(error, file=sys.stderr)
        return 1
    for path, text in out_of_date.items():
        print(f"out of date: {path}" if check else f"wrote {path}")
        if not check:
            path.write_text(text)
    return 1 if check and out_of_date else 0


if __name__ == "__main__":
    sys.exit(main())
