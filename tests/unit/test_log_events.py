"""Every event that we log can be searched for: a sentence for people, and one stable name for programs."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.sources import product_modules

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


@dataclass(frozen=True)
class LogEvent:
    """One call of a structlog logger, as it stands in the source; None for what is no literal."""

    where: str
    sentence: str | None
    action: str | None


def log_events(path: str, tree: ast.Module) -> Iterator[LogEvent]:
    """The calls of structlog's loggers in a module, however the logger is kept there."""
    loggers = _loggers(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, function = ast.unparse(node.func), node.func
        is_method = isinstance(function, ast.Attribute) and function.attr in LEVELS
        receiver = called.rpartition(".")[0] if is_method else called
        if receiver in loggers or (is_method and receiver.startswith("structlog.get_logger(")):
            action = next((keyword.value for keyword in node.keywords if keyword.arg == "action"), None)
            yield LogEvent(f"{path}:{node.lineno}", _text(node.args), _literal(action))


def _loggers(tree: ast.Module) -> set[str]:
    """What is assigned from `structlog.get_logger`, directly or by way of another such name."""
    loggers: set[str] = set()
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for _ in range(3):
        for node in assigned:
            value = ast.unparse(node.value)
            if any(re.search(rf"{re.escape(name)}\b", value) for name in ("structlog.get_logger", *loggers)):
                loggers |= {ast.unparse(target) for target in node.targets}
    return loggers


def _text(arguments: list[ast.expr]) -> str | None:
    """The sentence; a name or a number within it counts as `{}`."""
    if len(arguments) != 1:
        return None
    if isinstance(arguments[0], ast.JoinedStr):
        return "".join(_literal(part) or "{}" for part in arguments[0].values)
    return _literal(arguments[0])


def _literal(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


EVENTS = [event for path, tree in product_modules() for event in log_events(path, tree)]


def test_every_event_is_a_sentence() -> None:
    """An event is one text that begins like a sentence and ends with a period."""
    wrong = {e.where: e.sentence for e in EVENTS if not re.fullmatch(r"[A-Z{].*\.", e.sentence or "")}
    assert wrong == {}


def test_every_event_has_an_action() -> None:
    """An event has a literal `action` of at least two words in snake_case."""
    wrong = {e.where: e.action for e in EVENTS if not re.fullmatch(r"[a-z]+(_[a-z]+)+", e.action or "")}
    assert wrong == {}


def test_an_action_names_one_event() -> None:
    """Two different events never share an action: an alert on it means one thing."""
    sentences: dict[str | None, set[str | None]] = defaultdict(set)
    for event in EVENTS:
        sentences[event.action].add(event.sentence)
    assert {action: texts for action, texts in sentences.items() if len(texts) > 1} == {}


def test_a_logger_is_seen_wherever_it_is_kept() -> None:
    """The rules look at a logger in a name, in an attribute, bound, called at once, and by its method."""
    source = (
        "log = structlog.get_logger('a')\n"
        "log.info('One.', action='first_event')\n"
        "self._log = structlog.get_logger('b').bind(link=1)\n"
        "self._log.error('Two.')\n"
        "structlog.get_logger('c').warning(text, action=name)\n"
        "write = self._log.info if up else self._log.warning\n"
        "write(f'{name} is up.', action='third_event')\n"
        "other.info('not ours')\n"
    )
    seen = list(log_events("m.py", ast.parse(source)))
    assert seen == [
        LogEvent("m.py:2", "One.", "first_event"),
        LogEvent("m.py:4", "Two.", None),
        LogEvent("m.py:5", None, None),
        LogEvent("m.py:7", "{} is up.", "third_event"),
    ]
    assert len(EVENTS) > 15
