"""Where a text answers a question: from which token to which (SQuAD, Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250).

Letters: N positions.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.data.base import Encoded
from zoo.data.codecs.label import is_missing
from zoo.data.codecs.state import strict
from zoo.data.codecs.text_pair import TextPairCodec
from zoo.errors import CheckpointError, DataError
from zoo.specs import AnswerTarget

PARTS = 1000
"""That a text is read in at most."""


class AnswerCodec:
    """The first and the last token of the answer, which stands in the second of two texts.

    An empty answer says that there is none, which the first token stands for (SQuAD 2, https://arxiv.org/abs/1806.03822). One that was cut off with the
    end of its text is asked for nowhere, and counts as missed. At prediction a text that is too long is read in parts that overlap.

    Args:
        name: of the target.
        texts: codec of the input; None until ``connect``.
        source: that input's name.
    """

    kind: ClassVar[str] = "answer"
    ragged: ClassVar[str | None] = "tokens"
    pad: int = -1

    def __init__(self, *, name: str, texts: TextPairCodec | None = None, source: str = "text") -> None:
        self.name, self.texts, self.source = name, texts, source if texts is None else texts.name

    @property
    def pair(self) -> TextPairCodec:
        assert self.texts is not None, "connect() comes first"
        return self.texts

    @property
    def spec(self) -> AnswerTarget:
        return AnswerTarget(name=self.name, of=self.source)

    def encode(self, raw: Any) -> Encoded:
        """``{"texts", "answer", "start"}`` -> ``{"values": 2, "places": N}``. ``start``: a letter of the second text; None takes the answer's first place."""
        texts = raw["texts"]
        answer, start = answer_of(raw["answer"], raw.get("start"))
        encoding = self.pair.encoding(texts)
        if not answer:
            if encoding.sequence_ids[0] is not None:
                raise DataError(f"target {self.name!r}: without an answer the first token has to be a special one, and the tokenizer opens no text")
            return {"values": torch.tensor([0, 0]), **self._places(texts)}
        context = self.pair.texts(texts)[1]
        start = context.find(answer) if start is None else start
        if start < 0 or context[start : start + len(answer)] != answer:
            at = f"at letter {start} of " if start >= 0 else "in "
            raise DataError(f"target {self.name!r}: the answer {answer!r} does not stand {at}{self.pair.second!r}")
        stop = start + len(answer)
        own = [place for place, (first, last) in self._tokens(texts) if last > start and first < stop]
        reach = max((last for _, (_, last) in self._tokens(texts)), default=0)
        lost = not own or reach < len(answer.rstrip()) + start
        return {"values": torch.tensor([self.spec.lost] * 2 if lost else [own[0], own[-1]]), **self._places(texts)}

    def _tokens(self, texts: Any) -> Iterator[tuple[int, tuple[int, int]]]:
        """Place and offsets of each token of the second text."""
        encoding = self.pair.encoding(texts)
        return ((place, span) for place, (text, span) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True)) if text == 1)

    def _places(self, texts: Any) -> Encoded:
        """1 where an answer may stand: in the second text, and at the token that says that there is none."""
        encoding = self.pair.encoding(texts)
        return {
            self.spec.places: torch.tensor([1 if text == 1 or (place == 0 and text is None) else self.pad for place, text in enumerate(encoding.sequence_ids)])
        }

    def ask(self, row: Mapping[str, Any]) -> Encoded:
        """For two texts without an answer: where one may stand."""
        return self._places(row[self.source])

    def windows(self, row: Mapping[str, Any]) -> list[tuple[dict[str, Any], int]]:
        """Rows that together hold the whole second text, each with the letter that its part begins at. Neighbours share half of their tokens.

        Raises:
            DataError: for texts that cannot be used.
        """
        pair = self.pair
        texts = pair.texts(row[self.source])
        library = pair._tokenizer.library
        question, context = (library.encode(text, add_special_tokens=False) for text in texts)
        room = pair.room - min(len(question.ids), pair.room // 2)
        if len(context.ids) <= room:
            return [(dict(row), 0)]
        found: list[tuple[dict[str, Any], int]] = []
        offsets, size, step = context.offsets, len(context.ids), max(1, room // 2)
        if size > PARTS * step:
            raise DataError(f"the text {pair.second!r} has {size:,} tokens, more than {PARTS:,} parts of {room}; give the part of it that may hold the answer")
        for first in range(0, size, step):
            last = min(first + room, size)
            start, stop = offsets[first][0], offsets[last - 1][1]
            found.append(({**row, self.source: {**row[self.source], pair.second: texts[1][start:stop]}}, start))
            if last == size:
                break
        return found

    def present(self, answer: dict[str, Any], row: Mapping[str, Any], at: int = 0) -> dict[str, Any]:
        """The answer's text and its letters in the whole second text, of whose letter ``at`` the row's begins."""
        first, last = answer["span"]
        offsets = self.pair.encoding(row[self.source]).offsets
        start, stop = offsets[first][0], offsets[last][1]
        said = self.pair.texts(row[self.source])[1][start:stop]
        start += len(said) - len(said.lstrip())  # byte-level tokens begin with the space before a word
        said = said.strip()
        return {
            "answer": said,
            "probability": answer["probability"],
            "start": at + start,
            "end": at + start + len(said),
            "score": answer["score"],
            "without": answer["without"],
        }

    def best(self, found: list[dict[str, Any]]) -> dict[str, Any]:
        """Of the parts' answers: the one with the highest score; none, where the token that says so scores higher in every part."""
        best = max(found, key=lambda answer: float(answer["score"]))
        without = min(float(answer["without"]) for answer in found)
        told = {name: best[name] for name in ("answer", "probability", "start", "end")}
        return {"answer": "", "probability": 1 - best["probability"], "start": None, "end": None} if without > best["score"] else told

    def state(self) -> dict[str, Any]:
        return {"texts": self.source}

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "AnswerCodec":  # noqa: ARG003
        strict(state, name, texts=str)
        return cls(name=name, source=state["texts"])

    def connect(self, inputs: Mapping[str, Any]) -> None:
        """Find the input that the state names."""
        codec = inputs.get(self.source)
        if not isinstance(codec, TextPairCodec):
            raise CheckpointError(f"processor.json: target {self.name!r} stands in the texts {self.source!r}, which are no such input")
        self.texts = codec


def answer_of(raw: Any, start: Any) -> tuple[str, int | None]:
    """Text and first letter. As SQuAD has them, ``{"text": [...], "answer_start": [...]}``, the first of several answers; an empty list is none.

    Raises:
        DataError: for anything else than that or a text.
    """
    if isinstance(raw, str) and raw.startswith("{"):
        with suppress(ValueError):  # an answer may begin with a brace
            raw = json.loads(raw)
    if isinstance(raw, Mapping):
        texts, starts = raw.get("text"), raw.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f"an answer as SQuAD has it maps `text` and `answer_start` to lists of one length, not {json.dumps(raw, default=str)[:80]}")
        return (str(texts[0]), int(starts[0])) if texts else ("", None)
    if raw is not None and not isinstance(raw, str):
        raise DataError(f"an answer is a text, not {type(raw).__name__}")
    if is_missing(start):
        return raw or "", None
    try:
        return raw or "", int(start)
    except (TypeError, ValueError):
        raise DataError(f"the answer's first letter is {start!r}, which is no number") from None
