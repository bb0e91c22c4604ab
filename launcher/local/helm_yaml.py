"""Reads YAML as Helm does.

Helm reads values with go-yaml 2 and passes them through JSON. PyYAML reads YAML 1.1: there 16:9 is
969, 2024-01-01 is a date, 1e3 is a text and y is a text. We let PyYAML parse, and decide here what
a scalar means.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
PLAIN = "plain"  # our tag of a scalar that has neither quotes nor a tag
WORDS: dict[str, Any] = {
    **dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "on", "On", "ON"], True),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["n", "N", "no", "No", "NO", "off", "Off", "OFF"], False),
    **dict.fromkeys(["false", "False", "FALSE"], False),
    **dict.fromkeys(["", "~", "null", "Null", "NULL"], None),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], math.nan),
    **dict.fromkeys([".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"], math.inf),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], -math.inf),
}
WHOLE = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
KINDS = {bool: "bool", int: "int", float: "float", type(None): "null", str: "str"}


class NotYamlError(Exception):
    """Helm could not read the text; the message says why."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {None: [(PLAIN, re.compile(""))]}  # noqa: RUF012 - PyYAML's own name


def documents(text: bytes) -> Iterator[Any]:
    """The documents of a text. Raises NotYamlError.

    >>> list(documents(b"[16:9, 2024-01-01, 1e3, on, 010, '010']"))
    [['16:9', '2024-01-01', 1000, True, 8, '010']]
    """
    try:
        for node in yaml.compose_all(text, _Loader):
            yield _value(node)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NotYamlError(str(error)) from None
    except RecursionError:
        raise NotYamlError("it is nested too deeply, or an anchor contains itself") from None


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(each) for each in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    assert isinstance(node, yaml.ScalarNode)
    return _json(_scalar(node), node)


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    """A mapping, whose keys become texts. As in go-yaml 2, `<<` overrides the keys above it."""
    made: dict[str, Any] = {}
    for key, value in node.value:
        if key.tag == PLAIN and key.value == "<<":
            several = isinstance(value, yaml.SequenceNode)
            for each in reversed(value.value) if several else [value]:
                if not isinstance(each, yaml.MappingNode):
                    raise NotYamlError(f"<< needs a mapping{each.start_mark}")
                made.update(_mapping(each))
        else:
            made[_key(key)] = _value(value)
    return made


def _key(node: yaml.Node) -> str:
    key = _json(_scalar(node), node) if isinstance(node, yaml.ScalarNode) else None
    if key is None:
        raise NotYamlError(f"a key must be a text{node.start_mark}")
    if isinstance(key, bool):
        return "true" if key else "false"
    return key if isinstance(key, str) else format(key, "g" if isinstance(key, float) else "d")


def _scalar(node: yaml.ScalarNode) -> Any:
    tag, text = node.tag, node.value
    if tag == PLAIN:
        return resolve(text)
    kind = tag[len(TAG) :] if tag.startswith(TAG) else ""
    if kind == "binary":
        try:
            return base64.b64decode(text).decode(errors="replace")
        except binascii.Error as error:
            raise NotYamlError(f"{error}{node.start_mark}") from None
    if kind not in ("bool", "int", "float", "null"):
        return text
    value = resolve(text)
    if kind == "float" and type(value) is int:
        return float(value)
    if KINDS[type(value)] != kind:
        raise NotYamlError(f"cannot decode {text!r} as a !!{kind}{node.start_mark}")
    return value


def resolve(text: str) -> Any:
    """What a plain scalar means: null, a boolean, a number, or the text itself."""
    if text in WORDS:
        return WORDS[text]
    if not re.match("[-+.0-9]", text):
        return text
    # Underscores are ignored; in a number with a leading point they must be between digits.
    if text[0] == "." and re.search("(?<![0-9])_|_(?![0-9])", text):
        return text
    plain = text.replace("_", "")
    whole = WHOLE.fullmatch(plain)
    if whole:
        sign, *digits = whole.groups()
        (number,) = (int(each, base) for each, base in zip(digits, (16, 2, 8, 10)) if each)
        if number < 2**63 or (number < 2**64 and not sign) or (sign, number) == ("-", 2**63):
            return -number if sign == "-" else number
    if DECIMAL.fullmatch(plain) and math.isfinite(float(plain)):
        return float(plain)
    return text


def _json(value: Any, node: yaml.Node) -> Any:
    """A value after its way through JSON, where each number is a float64.

    Whole numbers are of type int where this is exact, because Helm makes no difference there.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise NotYamlError(f"JSON has no number like {node.value}{node.start_mark}")
    minus_zero = number == 0 and math.copysign(1, number) < 0
    return int(number) if number.is_integer() and abs(number) < 2**53 and not minus_zero else number
