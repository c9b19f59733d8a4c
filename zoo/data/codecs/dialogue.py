"""Conversations -> tokens, and which of them a model learns to say.

Letters: N positions.
"""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded, Tokenizer
from zoo.data.chat import TURNS, ChatTemplate, Message, Piece, TemplateError, messages_of
from zoo.data.codecs.fitting import usable
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import strict
from zoo.data.codecs.text import TextCodec
from zoo.data.tokenizers.subword import SubwordTokenizer, sound
from zoo.errors import CheckpointError, DataError, RegistryError
from zoo.registry import TOKENIZERS
from zoo.specs import DialogueInput, TokenTarget


class Learn(StrEnum):
    """Whose turns a model learns to say."""

    ASSISTANT = "assistant"
    ALL = "all"


class DialogueCodec(TextCodec):
    """A conversation, as its template writes it. What was said is tokenised by itself: marks that somebody types are plain text.

    Args:
        name: of the input.
        tokenizer: trained by ``fit``, or loaded.
        max_length: tokens at most; a conversation that is longer loses its end in training, its oldest turns at prediction.
        template: Jinja (``zoo.data.chat``); None takes the tokenizer's own, else ``ROLE: text`` with what closes a text.
    """

    kind: ClassVar[str] = "dialogue"

    def __init__(self, *, name: str, tokenizer: Tokenizer, max_length: int, template: str | None = None) -> None:
        if not isinstance(tokenizer, SubwordTokenizer):
            raise ValueError(f"tokenizer={tokenizer.kind} has no token that closes a turn; choose data/tokenizer=bpe or wordpiece")
        super().__init__(name=name, tokenizer=tokenizer, max_length=max_length)
        self.template = template or tokenizer.chat_template or TURNS
        try:
            ChatTemplate(self.template)
        except TemplateError as error:
            raise ValueError(f"chat_template: {error}") from error
        self._chat: ChatTemplate | None = None
        self._known: tuple[tuple[Message, ...], list[tuple[int, int | None]]] | None = None

    def fit(self, texts: Sequence[Any]) -> None:
        """Train the tokenizer on what was said in conversations, with the names of the roles."""
        said = [message.content for messages in usable(conversation, texts) for message in messages]
        self.tokenizer.train([*said, *(f"{role}: " for role in ("user", "assistant", "system") for _ in said[::4])])
        self.check()

    def check(self) -> None:
        """Raises:
        DataError: where nothing that the template writes closes a turn.
        """
        assert self.closing is not None

    @property
    def spec(self) -> DialogueInput:
        return DialogueInput(name=self.name, vocab_size=self.tokenizer.vocab_size, max_length=self.max_length, pad_id=self.tokenizer.pad_id)

    @property
    def _tokenizer(self) -> SubwordTokenizer:
        assert isinstance(self.tokenizer, SubwordTokenizer), "the constructor refuses others"
        return self.tokenizer

    @property
    def chat(self) -> ChatTemplate:
        if self._chat is None:
            library = self._tokenizer.library
            begin, end = (None if number is None else library.id_to_token(number) for number in (self.tokenizer.begin_id, self.tokenizer.end_id))
            self._chat = ChatTemplate(self.template, begin=begin or "", end=end or "")
        return self._chat

    @property
    def closing(self) -> int:
        """The token that closes an assistant's turn: the first that the template writes after it.

        Raises:
            DataError: where there is none, so that a model would never stop.
        """
        pieces = self._pieces([Message("user", "a"), Message("assistant", "b")])
        if pieces[-1].turn is not None:
            raise DataError(f"the chat template of {self.name!r} writes nothing after an assistant's turn, so that nothing would end what a model says")
        first = self._tokenizer.pieces(pieces[-1].text, special=True)[0]
        if first not in self._tokenizer.library.get_added_tokens_decoder():
            token = self._tokenizer.library.id_to_token(first)
            raise DataError(f"the chat template of {self.name!r} closes an assistant's turn by {token!r}, which is no special token and may stand in a text")
        return first

    def _pieces(self, messages: Sequence[Message]) -> list[Piece]:
        try:
            return self.chat.pieces(messages)
        except TemplateError as error:
            raise DataError(str(error)) from error

    def tokens(self, messages: Sequence[Message]) -> list[tuple[int, int | None]]:
        """Each token with the number of the turn that it belongs to, the one that closes it included; None for the template's own. The last conversation's
        are kept, for a target that is made of the same."""
        key = tuple(messages)
        if self._known is None or self._known[0] != key:
            found: list[tuple[int, int | None]] = []
            before: int | None = None
            for piece in self._pieces(messages):
                ids = self._tokenizer.pieces(sound(piece.text), special=piece.turn is None)
                turns = [piece.turn] * len(ids)
                if piece.turn is None and before is not None and ids:
                    turns[0] = before
                found += zip(ids, turns, strict=True)
                before = piece.turn
            self._known = key, found
        return self._known[1]

    def encode(self, raw: Any) -> Encoded:
        return {"values": torch.tensor([token for token, _ in self.tokens(conversation(raw))][: self.max_length])}

    def prompt(self, raw: Any) -> tuple[list[int], int]:
        """What an assistant's next turn follows, and how many of the oldest turns were left out, since half of what the model holds is kept free.

        Raises:
            DataError: for what is no conversation, and a last turn that is too long by itself.
        """
        messages = conversation(raw)
        if messages[-1].role == "assistant":
            raise DataError("the last turn is the assistant's own: there is nothing to answer")
        system = 1 if messages[0].role == "system" else 0
        for left_out in range(len(messages) - system):
            kept = [*messages[:system], *messages[system + left_out :]]
            if left_out and kept[system].role == "assistant" and len(kept) > system + 1:
                continue  # a conversation begins with the user
            ids = self._asking(kept)
            if len(ids) <= self.max_length - self.max_length // 2:
                return ids, left_out
        if len(ids) < self.max_length:
            return ids, left_out
        raise DataError(f"the last turn alone has {len(ids)} tokens, and the model holds {self.max_length}")

    def _asking(self, messages: Sequence[Message]) -> list[int]:
        last = len(messages)
        with_answer = self.tokens([*messages, Message("assistant", "a")])
        return [token for token, _ in with_answer[: next(place for place, (_, turn) in enumerate(with_answer) if turn == last)]]

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.kind, "max_length": self.max_length, "template": self.template}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "DialogueCodec":
        strict(state, name, tokenizer=str, max_length=int, template=str)
        try:
            kind = TOKENIZERS.load(state["tokenizer"])
        except RegistryError as error:
            raise CheckpointError(f"processor.json: {name}.tokenizer: {error}") from error
        return cls(name=name, tokenizer=kind.load(folder / name), max_length=state["max_length"], template=state["template"])  # type: ignore[attr-defined]


class SaidCodec:
    """The token that follows each place of a conversation, where it is one that a model learns to say: a turn's, and what closes it.

    Args:
        name: of the target.
        dialogue: codec of the input; None until ``connect``.
        source: that input's name.
        learn: whose turns.
    """

    kind: ClassVar[str] = "said"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = -1

    def __init__(self, *, name: str, dialogue: DialogueCodec | None = None, source: str = "text", learn: Learn = Learn.ASSISTANT) -> None:
        self.name, self.dialogue, self.learn, self.source = name, dialogue, learn, source if dialogue is None else dialogue.name

    @property
    def text(self) -> DialogueCodec:
        assert self.dialogue is not None, "connect() comes first"
        return self.dialogue

    @property
    def spec(self) -> TokenTarget:
        return TokenTarget(name=self.name, vocab_size=self.text.tokenizer.vocab_size, of=self.source)

    def encode(self, raw: Any) -> Encoded:
        """``{"values": N, "bytes": 1}``, the bytes of UTF-8 of the turns that are asked for, as far as they are held.

        Raises:
            DataError: where nothing of it is to be learned.
        """
        messages = conversation(raw)
        learned = {place for place, message in enumerate(messages) if self.learn is Learn.ALL or message.role == "assistant"}
        tokens = self.text.tokens(messages)
        held = tokens[: self.text.max_length]
        following = [token if turn in learned else self.pad for token, turn in held[1:]]
        if all(token == self.pad for token in following):
            reached = "no turn of an assistant" if not learned else f"no turn of an assistant within its first {self.text.max_length} tokens"
            raise DataError(f"the conversation has {reached}: there is nothing to learn from it")
        whole = {turn for _, turn in held} - ({tokens[len(held)][1]} if len(held) < len(tokens) else set())
        size = sum(len(messages[turn].content.strip().encode("utf-8", "replace")) for turn in whole & learned if turn is not None)
        broken = {turn for _, turn in held} & learned - whole
        for turn in broken:
            said = [token for token, of in held if of == turn]
            size += len(self.text.tokenizer.decode(said).encode("utf-8", "replace"))
        return {"values": torch.tensor([*following, self.pad]), self.spec.bytes: torch.tensor([size])}

    def state(self) -> dict[str, Any]:
        return {"dialogue": self.source, "learn": str(self.learn)}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "SaidCodec":  # noqa: ARG003
        strict(state, name, dialogue=str, learn=str)
        return cls(name=name, source=state["dialogue"], learn=Learn(state["learn"]))

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Find the input that the state names."""
        codec = inputs.get(self.source)
        if not isinstance(codec, DialogueCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} is said in the conversation {self.source!r}, which is no such input")
        self.dialogue = codec


class Closing:
    """A tokenizer whose texts are closed by another token than its own.

    Args:
        tokenizer: of everything else.
        end_id: that closes.
    """

    def __init__(self, tokenizer: Tokenizer, end_id: int) -> None:
        self._tokenizer, self.end_id = tokenizer, end_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def conversation(raw: Any) -> list[Message]:
    """A conversation of a table's cell (a list, or that as JSON) or as it was typed.

    Raises:
        DataError: for what is none.
    """
    if is_missing(raw):
        raise DataError("the conversation is empty")
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        try:
            raw = json.loads(raw)
        except ValueError as error:
            raise DataError(f"the conversation begins as a JSON list and is none: {error}") from error
    try:
        return messages_of(raw)
    except TemplateError as error:
        raise DataError(str(error)) from error
