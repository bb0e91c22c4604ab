"""Which values are refused, and with which message. The rules are in rules_of_*.py."""

from __future__ import annotations

import pytest

from tests.chart import rules_of_code, rules_of_pods, rules_of_runs
from tests.chart.render import HELMS, refusal, render
from tests.chart.rule import Rule, Values

RULES = [*rules_of_code.RULES, *rules_of_runs.RULES, *rules_of_pods.RULES]
IDS = [rule.name for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_values_that_break_a_rule_are_refused_with_its_message(rule: Rule) -> None:
    (said,) = refusal(rule.fails, release=rule.release)
    assert said.startswith(rule.says)


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_values_that_keep_the_rule_render(rule: Rule) -> None:
    render(rule.passes, release=rule.passing_release)


SHAPES = [
    ("an unknown key", {"workers": 3}, "additional properties 'workers' not allowed"),
    (
        "an unknown key in a mapping",
        {"worker": {"replica": 3}},
        "at '/worker': additional properties 'replica' not allowed",
    ),
    (
        "an unknown mode",
        {"mode": "mirrored"},
        "at '/mode': value must be one of 'parameter-server', 'coordinator', 'all-reduce'",
    ),
    ("two chiefs", {"chief": {"replicas": 2}}, "at '/chief': additional properties 'replicas'"),
    ("a negative deadline", {"deadline": -1}, "at '/deadline': minimum: got -1, want 0"),
    ("a string for a boolean", {"chiefFirst": "no"}, "at '/chiefFirst': got string, want boolean"),
    ("an unknown rule", {"success": "Half"}, "at '/success': value must be one of 'AllWorkers'"),
    ("a string for an integer", {"grace": "25s"}, "at '/grace': got string, want integer"),
    (
        "a fraction of a worker",
        {"worker": {"replicas": 1.5}},
        "at '/worker/replicas': got number, want integer",
    ),
    ("port 0", {"port": 0}, "at '/port': minimum: got 0, want 1"),
    ("a tag that is a number", {"image": {"tag": 2.2}}, "at '/image/tag': got number, want string"),
    (
        "a run.attempt that Helm rounds",
        {"run": {"attempt": 2**53}},
        "at '/run/attempt': maximum: got",
    ),
    (
        "a number in env",
        {"env": [{"name": "A", "value": 1}]},
        "at '/env/0/value': got number, want string",
    ),
    ("an argument that is null", {"program": {"args": [None]}}, "at '/program/args/0': got null"),
    ("a required part that is null", {"image": None}, "missing property 'image'"),
    (
        "an exit code above 255",
        {"restarts": {"permanentCodes": [256]}},
        "at '/restarts/permanentCodes/0': maximum: got 256, want 255",
    ),
]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("values", "says"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES]
)
def test_values_of_a_wrong_shape_are_refused_by_the_schema(
    values: Values, says: str, helm: str
) -> None:
    (said,) = refusal(values, helm=helm)
    assert says in said


def test_all_mistakes_in_the_values_are_reported_together(helm: str) -> None:
    everything: Values = {"pod": {}, "volumes": [], "env": []}
    for rule in RULES:
        for key, value in rule.fails.items():
            if isinstance(value, list):
                everything[key] = everything[key] + value
            elif key not in ("code", "mode"):  # the rules of the default mode only
                both = isinstance(value, dict)
                everything[key] = {**everything.get(key, {}), **value} if both else value
    said = refusal(everything, helm=helm, release="2" * 46, base={})
    for path in ("release", "ps.replicas", "worker.replicas", "program.command", "code must"):
        assert any(path in line for line in said), path
    for path in ("program.env", "pod must", "controller.pod", "env[1]", "volumes[", "checkpoints"):
        assert any(path in line for line in said), path
    assert len(said) > 20


def test_free_form_values_can_be_emptied(helm: str) -> None:
    render(
        {
            "pod": None,
            "worker": {"resources": None, "pod": None},
            "podSecurityContext": None,
            "securityContext": None,
            "controller": {"resources": None, "pod": None},
            "program": {"env": None},
        },
        helm=helm,
    )
