"""Conversations as text, by templates that are data: Jinja in the form that Hugging Face's tokenizers have it, in a renderer that can do little.

A template never sees what was said, only where it goes, so that nobody can write a turn of somebody else by typing its marks, and no template can depend on
it. Beyond that it is restricted to what templates of conversations need: loops over the messages, conditions, texts. Imports no torch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

ROLES = ("system", "user", "assistant")
TURNS = "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}\n{% endfor %}"
"""For tokenizers that have no marks for turns: the role as a word, and what closes every text."""
LONGEST = 32_768
"""Characters of a template; the longest published ones have a quarter of it."""
MESSAGES = 10_000
METHODS = frozenset({"strip", "lstrip", "rstrip", "startswith", "endswith", "upper", "lower", "title", "items", "get", "raise_exception", "namespace"})
FILTERS = frozenset({"trim", "length", "first", "last", "upper", "lower", "title", "default", "string", "selectattr", "list"})
GENERATION, GENERATED = (re.compile(r"\{%([-+]?)\s*" + word + r"\s*([-+]?)%\}") for word in ("generation", "endgeneration"))
"""How transformers marks what an assistant says, which the place of its turns tells here."""
MARK = re.compile("\ue000([0-9]+)\ue001")


class TemplateError(ZooError):
    """A template that cannot be used, or a conversation that it refuses; the message says why."""


@dataclass(frozen=True)
class Message:
    """One turn.

    Args:
        role: system, user or assistant.
        content: what was said.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Piece:
    """A part of a rendered conversation: the template's own text, or what was said in one turn.

    Args:
        text: of it.
        turn: number of the message; None for the template's text.
    """

    text: str
    turn: int | None = None


def messages_of(raw: Any) -> list[Message]:
    """A conversation from plain values: a list of ``{"role", "content"}``; a text alone is a user's turn.

    Raises:
        TemplateError: for anything else, with the turn's number.
    """
    if isinstance(raw, str):
        raw = [{"role": "user", "content": raw}]
    if not isinstance(raw, Sequence) or not raw:
        raise TemplateError(f"a conversation is a list of turns, one or more, not {'an empty list' if raw == [] else type(raw).__name__}")
    if len(raw) > MESSAGES:
        raise TemplateError(f"a conversation of {len(raw)} turns; {MESSAGES} at most")
    found = []
    for place, turn in enumerate(raw, 1):
        if isinstance(turn, Message):
            found.append(turn)
            continue
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str) or not isinstance(turn.get("role"), str):
            raise TemplateError(f"turn {place} of the conversation is no {{'role': ..., 'content': ...}} of texts")
        if turn["role"] not in ROLES:
            raise TemplateError(f"turn {place} of the conversation has the role {turn['role']!r}; known: {', '.join(ROLES)}")
        if not turn["content"].strip():
            raise TemplateError(f"turn {place} of the conversation is empty")
        found.append(Message(turn["role"], turn["content"]))
    return found


class ChatTemplate:
    """How a conversation becomes text.

    Args:
        source: Jinja. It is given ``messages``, ``bos_token``, ``eos_token``, ``add_generation_prompt`` (false), and may call ``raise_exception(text)``.
        begin: what ``bos_token`` stands for; empty where a tokenizer has none.
        end: what ``eos_token`` stands for.

    Raises:
        TemplateError: for a template that is too long, damaged, or asks for more than it may.
    """

    def __init__(self, source: str, *, begin: str = "", end: str = "") -> None:
        self.source, self.begin, self.end = source, begin, end
        self._template = compiled(source)

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """The conversation in order; what was said stands without spaces around it, as in every published template.

        Raises:
            TemplateError: where the template refuses the conversation, or loses or moves one of its turns.
        """
        from jinja2 import TemplateError as Refused
        from jinja2.exceptions import SecurityError

        given = [{"role": message.role, "content": f"\ue000{place}\ue001"} for place, message in enumerate(messages)]
        try:
            rendered = self._template.render(messages=given, bos_token=self.begin, eos_token=self.end, add_generation_prompt=False, tools=None)
        except (Refused, SecurityError, TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError) as error:
            raise TemplateError(f"the chat template refuses this conversation: {error}") from error
        parts = MARK.split(rendered)
        found = [Piece(parts[0])] if parts[0] else []
        turns = [int(number) for number in parts[1::2]]
        if turns != list(range(len(messages))):
            raise TemplateError(f"the chat template gives the turns {turns} of {len(messages)}; it has to give each once, in its order")
        for turn, after in zip(turns, parts[2::2], strict=True):
            found.append(Piece(messages[turn].content.strip(), turn))
            if after:
                found.append(Piece(after))
        return found


def compiled(source: str) -> "Template":
    """A checked template.

    Raises:
        TemplateError: with the reason.
    """
    from jinja2 import TemplateSyntaxError

    if len(source) > LONGEST:
        raise TemplateError(f"a chat template of {len(source):,} characters; {LONGEST:,} at most")
    source = GENERATION.sub(r"{%\1 if true \2%}", source)
    source = GENERATED.sub(r"{%\1 endif \2%}", source)
    environment = sandbox()
    try:
        check_nodes(environment.parse(source))
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise TemplateError(f"the chat template cannot be read: {error.message} (line {error.lineno})") from error
    except RecursionError as error:
        raise TemplateError("the chat template is nested too deeply") from error


def sandbox() -> "ImmutableSandboxedEnvironment":
    """Where templates are rendered; white space as transformers has it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    environment.globals = {"raise_exception": refuse, "namespace": environment.globals["namespace"]}
    return environment


def refuse(reason: object) -> None:
    """What a template calls ``raise_exception``."""
    from jinja2 import TemplateError as Refused

    raise Refused(str(reason))


def check_nodes(tree: Any) -> None:
    """Whether a template keeps to what conversations need. A loop runs over a variable or a part of one, and holds at most one other: what it costs is
    bounded by the square of the number of turns.

    Raises:
        TemplateError: naming what is too much.
    """
    from jinja2 import nodes

    allowed = (
        nodes.Template,
        nodes.Output,
        nodes.TemplateData,
        nodes.For,
        nodes.If,
        nodes.Assign,
        nodes.Name,
        nodes.NSRef,
        nodes.Const,
        nodes.Getattr,
        nodes.Getitem,
        nodes.Slice,
        nodes.Compare,
        nodes.Operand,
        nodes.And,
        nodes.Or,
        nodes.Not,
        nodes.Add,
        nodes.Sub,
        nodes.Mod,
        nodes.Neg,
        nodes.Concat,
        nodes.CondExpr,
        nodes.Filter,
        nodes.Test,
        nodes.Call,
        nodes.Keyword,
        nodes.List,
        nodes.Tuple,
        nodes.Dict,
        nodes.Pair,
    )

    def walk(node: Any, loops: int) -> None:
        if not isinstance(node, allowed):
            raise TemplateError(f"the chat template uses {type(node).__name__.lower()} (line {node.lineno}), which conversations need nowhere")
        if isinstance(node, nodes.For):
            loops += 1
            if loops > 2 or not isinstance(node.iter, nodes.Name | nodes.Getitem | nodes.Getattr | nodes.Call):
                raise TemplateError(f"the chat template loops (line {node.lineno}) three deep, or over something that is no list of messages")
        name = node.node.attr if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) else None
        if isinstance(node, nodes.Call):
            name = node.node.name if isinstance(node.node, nodes.Name) else name
            if name not in METHODS:
                raise TemplateError(f"the chat template calls {name or 'something'!r} (line {node.lineno}); known: {', '.join(sorted(METHODS))}")
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            raise TemplateError(f"the chat template uses the filter {node.name!r} (line {node.lineno}); known: {', '.join(sorted(FILTERS))}")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise TemplateError(f"the chat template asks for {node.attr!r} (line {node.lineno}), which is nobody's business")
        if isinstance(node, nodes.Const) and isinstance(node.value, str) and len(node.value) > LONGEST:
            raise TemplateError(f"the chat template holds a text of {len(node.value):,} characters")
        for child in node.iter_child_nodes():
            walk(child, loops)

    walk(tree, 0)
