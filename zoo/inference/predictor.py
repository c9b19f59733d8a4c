"""A model with its processor: raw inputs in, answers that a person reads out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.data.base import InputCodec
from zoo.data.codecs.answer import AnswerCodec
from zoo.data.codecs.dialogue import Closing, DialogueCodec, SaidCodec
from zoo.data.codecs.table import TableCodec
from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.text_pair import TextPairCodec
from zoo.data.codecs.token import NextTokenCodec
from zoo.data.codecs.written import WrittenTokenCodec
from zoo.data.processor import Processor
from zoo.data.tabular import Reading
from zoo.errors import DataError, ZooError
from zoo.hub.bundle import Bundle, load_bundle
from zoo.inference.generate import Writing, continuations, prompt_ids, streamed, text_of, translations, written
from zoo.inference.inputs import GIVES, Sample, samples
from zoo.inference.rows import Wanted, row_samples
from zoo.inference.sampling import Sampling
from zoo.inference.writers import lay_out, writer_of
from zoo.model import Model
from zoo.parallel.device import choose_device
from zoo.structs import Batch

if TYPE_CHECKING:
    from zoo.specs import InputSpec


PARTS = 32
"""Of long texts that go through the model together."""


class Predictor:
    """Answers for raw inputs, prepared exactly as in training.

    Args:
        model: in evaluation mode, on ``device``.
        processor: of the data that it was trained on.
        bundle: where both come from.
        device: where the model is.
    """

    def __init__(self, *, model: Model, processor: Processor, bundle: Bundle, device: torch.device) -> None:
        self.model, self.bundle, self.device = model.eval(), bundle, device
        head: Any = model.head
        target = head.target.name
        # Only what the model takes has to be given: other inputs of the data, and targets, are left out.
        optional = [name for name in processor.optional if name in model.inputs]
        self.processor = Processor({name: processor.inputs[name] for name in model.inputs}, {target: processor.targets[target]}, optional)
        self.target: Any = processor.targets[target]
        if self.writes:
            lay_out(model)
        data = bundle.config.get("data")
        self.reading = Reading.of(data if isinstance(data, dict) else {})  # files of tables are read as in training
        self.wanted = [
            Wanted(name, codec.spec.kind, columns_of(codec) or (self.reading.columns.get(name, name),)) for name, codec in self.processor.inputs.items()
        ]

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> "Predictor":
        """From a bundle or a run's directory.

        Raises:
            CheckpointError: where it is incomplete, damaged, hostile, or needs components that are not registered.
        """
        chosen = choose_device(device)
        loaded = load_bundle(folder, chosen)
        return cls(model=loaded.model, processor=loaded.processor, bundle=loaded.bundle, device=chosen)

    @property
    def input(self) -> "InputSpec":
        """Of a model of one input."""
        return self.processor.inputs[self.model.input].spec

    @property
    def metrics(self) -> dict[str, float]:
        """Figures at the end of training: ``test/accuracy`` ..."""
        return dict(self.bundle.metrics)

    def predict(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        top_k: int = 5,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        sampling: Sampling | None = None,
    ) -> list[dict[str, Any]]:
        """One answer for each input, in order; one for each row where an input is a table's file.

        Args:
            inputs: raw, by the kind of the model's input: image or sound files (or arrays), texts, rows of a table, conversations (a text, or lists of
                ``role`` and ``content``), user ids or lists of item ids (``zoo.inference.inputs.samples``). For a model of several inputs: mappings of
                inputs to these, or files of tables (``zoo.inference.rows``).
            batch_size: inputs that go through the model together; changes no answer.
            top_k: labels or items of each answer.
            max_tokens: of a continuation; 64, if not given. This and what follows is for models that write continuations.
            temperature: of a continuation; 0, if not given, takes the likeliest token each time.
            seed: of a continuation that is drawn, 0 if not given; each input draws its own numbers. Needs a temperature above 0.
            sampling: all of that and more (beams, top_p, stop ...), in place of the three.

        Returns:
            ``{"input": ..., **answer}``, or ``{"input": ..., "error": reason}`` for what cannot be used; the others are answered all the same.
            ``absent`` lists inputs that a row lacks, where the data allows that.
            Answers by the head's task: one label ``label``, ``probability``, ``probabilities``; several ``labels``, ``probabilities``; numbers ``values``; a
            ranking ``top`` (``item``, ``title`` if there is one, ``score``), with a ``note`` on users and items that training did not know; a ``vector``; an
            ``answer`` with its place (``start``, ``end``); a ``reply`` in a conversation, a ``continuation``, or of a model whose decoder writes a ``text``,
            with its number of ``tokens`` and how it ``ended`` (end, stop, length).

        Raises:
            ZooError: for one input in place of a list, numbers out of range, options of a continuation where the model writes none, and a seed where
                nothing is drawn.
        """
        if isinstance(inputs, str | bytes | Path | Mapping):
            raise ZooError(f"predict takes a list of inputs: predict([{inputs!r}])")
        for name, value in (("batch_size", batch_size), ("top_k", top_k)):
            if value < 1:
                raise ZooError(f"{name}={value} has to be 1 or more")
        given_one_by_one = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        if sampling is not None and (twice := [name for name, value in given_one_by_one.items() if value is not None]):
            raise ZooError(f"{twice[0]} and sampling say the same thing twice\n  way out: sampling=Sampling({twice[0]}=...)")
        sampling = self._checked(sampling) if sampling is not None else self._sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
        if len(self.wanted) > 1:
            given = row_samples(inputs, self.wanted, self.reading)
        else:
            given = samples(inputs, self.input.kind, self.model.input, self.reading)
        head: Any = self.model.head
        if hasattr(head, "answers"):  # how long a ranked list is, was an option of training; here it is the caller's
            head.answers = min(top_k, head.target.num_items if hasattr(head.target, "num_items") else head.target.vocab_size)
        answers: dict[int, dict[str, Any]] = {}
        order = sorted(range(len(given)), key=lambda place: size_of(given[place].raw))  # similar ones together: less padding is computed in vain
        for first in range(0, len(order), batch_size):
            places = order[first : first + batch_size]
            part = [given[place] for place in places]
            if isinstance(self.target, WrittenTokenCodec):
                found = self._write(part, sampling, places)
            else:
                found = self._continue(part, sampling, places) if self.writes else self._answer(part, top_k)
            answers |= zip(places, found, strict=True)
        return [answers[place] for place in range(len(given))]

    @property
    def writes(self) -> bool:
        """Whether its answers are texts."""
        return isinstance(self.target, NextTokenCodec | WrittenTokenCodec | SaidCodec)

    def _checked(self, sampling: Sampling) -> Sampling:
        if not self.writes:
            raise ZooError(f"sampling is for models that give {GIVES['token']}; this one gives {GIVES.get(self.target.spec.kind, self.target.spec.kind)}")
        return sampling

    def _sampling(self, **asked: Any) -> Sampling:
        wanted = {name: value for name, value in asked.items() if value is not None}
        if wanted and not self.writes:
            told, kind = ", ".join(f"{name}={value}" for name, value in wanted.items()), self.target.spec.kind
            raise ZooError(
                f"{told}: for models that give {GIVES['token']}; this one gives {GIVES.get(kind, kind)}\n  way out: predict without {', '.join(wanted)}"
            )
        if "seed" in wanted and not wanted.get("temperature"):
            raise ZooError(
                f"seed={wanted['seed']}: without a temperature above 0 the likeliest token is taken each time, and nothing is drawn\n"
                f"  way out: predict with temperature=0.7, seed={wanted['seed']}, or without seed"
            )
        return Sampling(**wanted)

    def _continue(self, given: list[Sample], sampling: Sampling, keys: Sequence[int]) -> list[dict[str, Any]]:
        """Texts with what the model writes after them."""
        if isinstance(self.target, SaidCodec):
            return self._reply(given, sampling, keys)
        codec: TextCodec = self.processor.inputs[self.model.input]  # type: ignore[assignment]
        asked = {place: prompt_ids(codec, sample.raw) for place, sample in enumerate(given) if sample.error is None}
        answers: list[dict[str, Any]] = [{"input": sample.name} | ({"error": sample.error} if sample.error is not None else {}) for sample in given]
        if asked:
            prompts = [ids for ids, _ in asked.values()]
            found = continuations(self.model, codec, prompts, sampling, places=[keys[place] for place in asked], device=self.device)
            for (place, (_, cut)), continuation in zip(asked.items(), found, strict=True):
                answers[place] |= {
                    "continuation": text_of(codec.tokenizer, continuation, sampling.stop),
                    "tokens": len(continuation.ids),
                    "ended": str(continuation.ended),
                }
                answers[place] |= {"note": f"the text is longer than the model holds ({codec.max_length} tokens): its beginning was left out"} if cut else {}
        return answers

    def _reply(self, given: list[Sample], sampling: Sampling, keys: Sequence[int]) -> list[dict[str, Any]]:
        """What an assistant says next in each conversation."""
        codec = self._dialogue
        answers: list[dict[str, Any]] = [{"input": sample.name} | ({"error": sample.error} if sample.error is not None else {}) for sample in given]
        prompts: dict[int, list[int]] = {}
        for place, sample in enumerate(given):
            if sample.error is not None:
                continue
            try:
                prompts[place], left_out = codec.prompt(sample.raw)
            except DataError as error:
                answers[place]["error"] = str(error)
                continue
            if left_out:
                answers[place]["note"] = (
                    f"the conversation is longer than the model holds ({codec.max_length} tokens): its first {left_out} turns were left out"
                )
        if prompts:
            closing: Any = Closing(codec.tokenizer, codec.closing)
            writer = writer_of(self.model, name=codec.name, pad=codec.pad)
            with torch.inference_mode():
                places = [keys[place] for place in prompts]
                found = written(writer, closing, list(prompts.values()), sampling, limit=codec.max_length, places=places, device=self.device)
            for place, said in zip(prompts, found, strict=True):
                reply = text_of(codec.tokenizer, said, sampling.stop).strip()
                answers[place] |= {"reply": reply, "tokens": len(said.ids), "ended": str(said.ended)}
        return answers

    @property
    def _dialogue(self) -> DialogueCodec:
        codec = self.processor.inputs[self.model.input]
        if not isinstance(self.target, SaidCodec) or not isinstance(codec, DialogueCodec):
            raise ZooError(
                f"{self.bundle.name} was not trained on conversations, and answers none\n  way out: a model of data.target_kind=dialogue (`zoo train "
                "experiment=chitchat`); zoo predict gives this one's answers"
            )
        return codec

    def chat(self, messages: Sequence[Mapping[str, str]], sampling: Sampling | None = None) -> Iterator[str]:
        """An assistant's next turn, in pieces as they come.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": ...}``, oldest first, the last one the user's.
            sampling: how; without beams.

        Raises:
            ZooError: for a model that was not trained on conversations, and a conversation that cannot be used.
        """
        codec, sampling = self._dialogue, sampling or Sampling()
        if sampling.beams > 1:
            raise ZooError(f"beams={sampling.beams} are compared when they are done, and nothing is known of the text before; predict gives it whole")
        prompt, _ = codec.prompt(list(messages))
        closing: Any = Closing(codec.tokenizer, codec.closing)
        with torch.inference_mode():
            writing = Writing(
                writer_of(self.model, name=codec.name, pad=codec.pad), closing, [prompt], sampling, limit=codec.max_length, places=[0], device=self.device
            )
        yield from streamed(writing, prompt)

    def stream(self, raw: Any, sampling: Sampling | None = None) -> Iterator[str]:
        """What is written of one input, in pieces as they come; together they are the answer's text.

        Args:
            raw: as ``predict`` takes it.
            sampling: how; without beams.

        Raises:
            ZooError: for an input that cannot be used, beams, and models that write nothing.
        """
        sampling = self._checked(sampling or Sampling())
        if sampling.beams > 1:
            raise ZooError(f"beams={sampling.beams} are compared when they are done, and nothing is known of the text before; predict gives it whole")
        (sample,) = row_samples([raw], self.wanted, self.reading) if len(self.wanted) > 1 else samples([raw], self.input.kind, self.model.input, self.reading)
        if sample.error is not None:
            raise ZooError(sample.error)
        if isinstance(self.target, SaidCodec):
            raw = sample.raw
            yield from self.chat([{"role": "user", "content": raw}] if isinstance(raw, str) else raw, sampling)
            return
        prompt: list[int] = []
        features, codec = None, self.processor.inputs[self.model.input]
        if isinstance(self.target, WrittenTokenCodec):
            batch = self.processor.batch([sample.raw if len(self.wanted) > 1 else {self.model.input: sample.raw}], with_targets=False)
            prompt = self.target.text.opening()
            with torch.inference_mode():
                features = self.model.encode(batch.to(self.device).inputs)
        else:
            assert isinstance(codec, TextCodec), "the head follows a text"
            prompt, _ = prompt_ids(codec, sample.raw)
        of: Any = self.target.text if features is not None else codec
        writer = writer_of(self.model, name=of.name, pad=of.pad, features=features)
        with torch.inference_mode():
            writing = Writing(writer, of.tokenizer, [prompt], sampling, limit=of.max_length, places=[0], device=self.device)
        yield from streamed(writing, prompt)

    @torch.inference_mode()
    def _write(self, given: list[Sample], sampling: Sampling, keys: Sequence[int]) -> list[dict[str, Any]]:
        """What the decoder writes of each input."""
        several = len(self.wanted) > 1
        answers: dict[int, dict[str, Any]] = {place: {"error": sample.error} for place, sample in enumerate(given) if sample.error is not None}
        rows = {place: sample.raw if several else {self.model.input: sample.raw} for place, sample in enumerate(given) if place not in answers}
        batch, reasons = self._batch(list(rows.values()))
        if batch is not None:
            codec = self.target.text
            features = self.model.encode(batch.to(self.device).inputs)
            found = translations(
                self.model,
                features,
                codec.tokenizer,
                codec.opening(),
                sampling,
                limit=codec.max_length,
                places=[keys[place] for place in rows],
                device=self.device,
            )
            for place, continuation in zip(rows, found, strict=True):
                said = text_of(codec.tokenizer, continuation, sampling.stop)
                answers[place] = {"text": said, "tokens": len(continuation.ids), "ended": str(continuation.ended)}
        answers |= {place: {"error": reason} for place, reason in zip(rows, reasons, strict=True) if reason is not None}
        return [{"input": sample.name} | answers[place] for place, sample in enumerate(given)]

    @torch.inference_mode()
    def _answer(self, given: list[Sample], top_k: int) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {place: {"error": sample.error} for place, sample in enumerate(given) if sample.error is not None}
        several = len(self.wanted) > 1
        rows = {place: sample.raw if several else {self.model.input: sample.raw} for place, sample in enumerate(given) if place not in answers}
        if isinstance(self.target, AnswerCodec):
            answers |= self._spans(rows)
            rows = {}
        batch, reasons = self._batch(list(rows.values()))
        if batch is not None:
            batch = batch.to(self.device)
            prediction = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in self.model(batch.inputs).items()}
            head: Any = self.model.head
            decoded = head.decode(prediction, batch.targets)
            usable = zip(rows, decoded, reasons, strict=True)
            answers |= {place: self._shaped(answer, rows[place], top_k) for place, answer, reason in usable if reason is None}
        answers |= {
            place: self._unusable(None if several else rows[place][self.model.input], reason, top_k)
            for place, reason in zip(rows, reasons, strict=True)
            if reason is not None
        }
        for place, row in rows.items():
            if (lacking := [name for name in self.model.inputs if name not in row]) and "error" not in answers[place]:
                answers[place]["absent"] = lacking
        return [{"input": sample.name} | answers[place] for place, sample in enumerate(given)]

    def _spans(self, rows: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """Answers with their place, the best of the parts that a long text is read in."""
        head: Any = self.model.head
        answers: dict[int, dict[str, Any]] = {}
        parts: list[tuple[int, dict[str, Any], int]] = []
        for place, row in rows.items():
            try:
                parts += [(place, part, at) for part, at in self.target.windows(row)]
            except DataError as error:
                answers[place] = {"error": str(error)}
        found: dict[int, list[dict[str, Any]]] = {}
        for start in range(0, len(parts), PARTS):
            some = parts[start : start + PARTS]
            batch = self.processor.batch([part for _, part, _ in some], with_targets=False).to(self.device)
            for (place, part, at), answer in zip(some, head.decode(self.model(batch.inputs), batch.targets), strict=True):
                found.setdefault(place, []).append(self.target.present(answer, part, at))
        return answers | {place: self.target.best(parts) for place, parts in found.items()}

    def _batch(self, rows: list[dict[str, Any]]) -> tuple[Batch | None, list[str | None]]:
        """A batch with a filler for each row that cannot be encoded, and why; no batch where none can."""
        if not rows:
            return None, []
        try:
            batch = self.processor.batch(rows, with_targets=False)
        except DataError as error:
            if len(rows) == 1:
                return None, [str(error)]
            return None, [reason for row in rows for reason in self._batch([row])[1]]
        reasons = iter(batch.bad)
        return batch, [None if valid else next(reasons).reason for valid in batch.valid.tolist()]

    def _shaped(self, answer: dict[str, Any], row: Mapping[str, Any], top_k: int) -> dict[str, Any]:
        """The best ``top_k`` of what is ranked, in the data's own names, under keys that do not depend on the data."""
        if self.target.spec.kind == "number":
            return {"values": answer}
        if "probabilities" in answer:
            return answer | {"probabilities": dict(list(answer["probabilities"].items())[:top_k])}
        if "items" in answer:
            answer = {"top": [{"item": item, "score": score} for item, score in zip(answer["items"], answer["scores"], strict=True)][:top_k]}
        return self.target.present(answer, row) if hasattr(self.target, "present") else answer

    def _unusable(self, raw: Any, reason: str, top_k: int) -> dict[str, Any]:
        """The stated answer for users and items that training did not know, where there is one; else the reason."""
        asks_for_someone = isinstance(raw, str | int | list | tuple) and not isinstance(raw, bool)
        return self.target.fallback(reason, top_k) if asks_for_someone and hasattr(self.target, "fallback") else {"error": reason}


def size_of(raw: Any) -> int:
    """How long a raw sample is, roughly: letters of its texts; 0 where there are none."""
    if isinstance(raw, str):
        return len(raw)
    if isinstance(raw, Mapping):
        return sum(map(size_of, raw.values()))
    return sum(map(size_of, raw)) if isinstance(raw, list) else 0


def columns_of(codec: InputCodec) -> tuple[str, ...]:
    """Of an input that is made of several columns."""
    if isinstance(codec, TableCodec):
        return (*codec.numbers, *codec.categories)
    return codec.columns if isinstance(codec, TextPairCodec) else ()
