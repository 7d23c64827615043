"""Lays chat turns out by a base's own template, as transformers does.

A template is a stranger's program: it runs in jinja's sandbox and finds there what transformers
gives it, nothing else. Knows no vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.parser import Parser

from ..api.answers import ChatMessage
from ..errors import BadRequest
from .tools import HERMES, as_turns, form_of

GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""What a template finds from us, whatever a request calls its options."""


class ChatTemplate:
    """One template, or none: then it refuses every turn.

    A template that is no program refuses every turn too, with its fault; a base that has one
    answers plain prompts all the same. It `knows_tools` where it looks at them;
    `form` is how the model behind it writes calls of them.
    """

    def __init__(self, source: str) -> None:
        self._program: jinja2.Template | None = None
        self.knows_tools = False
        self.form = HERMES
        self._fault = "this base has no chat template: send a plain prompt"
        if source:
            try:
                environment = _sandbox()
                self._program = environment.from_string(source)
                self.knows_tools = _reads(environment, source, "tools")
                self.form = form_of(source, knows_tools=self.knows_tools)
            except Exception as error:  # a stranger's program: jinja's compiler may fail anyhow
                self._fault = f"this base's chat template cannot be read: {_told(error)}"

    def render(
        self,
        messages: Sequence[ChatMessage],
        specials: Mapping[str, str],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Lay out turns, ending where the assistant speaks; `specials` are the texts of bos_token
        and the like, `tools` are JSON schemas of functions, `options` what else a request gives the
        template.

        Raises BadRequest.
        """
        if self._program is None:
            raise BadRequest(self._fault)
        for name in options or {}:
            if name in GIVEN or name in specials:
                raise BadRequest(f"the template's {name} is not a request's to set; remove it")
        given: dict[str, Any] = {**(options or {}), "documents": None}
        given["messages"] = as_turns(messages, self.form)
        given["tools"] = None if tools is None else [dict(tool) for tool in tools]
        try:
            return self._program.render(given, add_generation_prompt=True, **specials)
        except Exception as error:  # a stranger's program: it may raise anything
            raise BadRequest(
                f"the base's chat template refused these messages: {_told(error)}"
            ) from error


def _reads(environment: jinja2.Environment, source: str, name: str) -> bool:
    """Return whether a template looks at a variable."""
    return any(node.name == name for node in environment.parse(source).find_all(jinja2.nodes.Name))


def _told(error: Exception) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {text}"


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, by which training finds what the assistant said; here
    its content alone.
    """

    tags = {"generation"}  # noqa: RUF012 (as jinja declares it)

    def parse(self, parser: Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_say")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def _say(caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """A namespace that keeps no name that begins with an underscore; a field may be called self."""

    def __init__(*given: Any, **fields: Any) -> None:
        self, *rest = given
        named = dict(*rest, **fields)
        for name in named:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, named)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace keeps no name like {name[:40]!r}")


def _sandbox() -> jinja2.Environment:
    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = to_json  # jinja's own escapes HTML
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["namespace"] = _Namespace
    return environment
