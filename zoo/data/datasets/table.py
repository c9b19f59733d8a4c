"""Tables of any kind of data: columns of text, of files by path, of numbers and of categories, mapped by options."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.base import InputCodec, OpenData, TargetCodec, Tokenizer
from zoo.data.codecs.answer import AnswerCodec
from zoo.data.codecs.audio import AudioCodec
from zoo.data.codecs.context import ContextCodec
from zoo.data.codecs.dialogue import DialogueCodec, Learn, SaidCodec
from zoo.data.codecs.fitting import usable
from zoo.data.codecs.image import ImageCodec
from zoo.data.codecs.label import ClassCodec, NumberCodec, is_missing
from zoo.data.codecs.masked import MaskedTokenCodec, Masking
from zoo.data.codecs.pair import PairCodec
from zoo.data.codecs.table import Missing, TableCodec
from zoo.data.codecs.tag import TagCodec, WordsCodec, words_of
from zoo.data.codecs.text import TextCodec
from zoo.data.codecs.text_pair import TextPairCodec
from zoo.data.codecs.token import NextTokenCodec
from zoo.data.codecs.written import Start, WrittenCodec, WrittenTokenCodec
from zoo.data.files import SPLIT_FOLDERS
from zoo.data.splits import check_fractions, hash_split
from zoo.data.tabular import Format, Header, Quoting, Rows, read_rows
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.errors import DataError
from zoo.files import home
from zoo.registry import DATASETS
from zoo.specs import DataSpec, InputSpec, Labelling, TableInput, TagTarget, TargetSpec

TEXT, IMAGE, AUDIO, TABLE, WRITTEN = "text", "image", "audio", "table", "written"
FIT_CLIPS = 500


class TargetKind(StrEnum):
    CLASS = "class"
    MULTI = "multi"
    NUMBER = "number"
    PAIR = "pair"
    NEXT_TOKEN = "next_token"
    MASKED = "masked"
    TAGS = "tags"
    TEXT = "text"
    CONTEXT = "context"
    ANSWER = "answer"
    DIALOGUE = "dialogue"


OF_THE_TEXT = (TargetKind.NEXT_TOKEN, TargetKind.MASKED, TargetKind.CONTEXT, TargetKind.DIALOGUE)
"""Kinds of targets that are made of the text itself."""
TARGET_NAMES = {
    TargetKind.CLASS: "label",
    TargetKind.MULTI: "label",
    TargetKind.NUMBER: "value",
    TargetKind.PAIR: "pair",
    TargetKind.NEXT_TOKEN: "next",
    TargetKind.MASKED: "masked",
    TargetKind.TAGS: "tags",
    TargetKind.TEXT: "next",
    TargetKind.CONTEXT: "context",
    TargetKind.ANSWER: "answer",
    TargetKind.DIALOGUE: "next",
}


@DATASETS.register("table")
class Table:
    """CSV, TSV, JSON (a list of objects), JSON lines, Parquet, or a Hugging Face data set, with the columns that are wanted named by options.

    Inputs, all that are named: `text`, `image`, `audio`, and `table` (numbers and categories). Columns of files without a header are named
    "0", "1", and so on. Splits, the first that applies: `validation_path` and `test_path`; `split_column`; the splits of a Hugging Face data
    set; parts by the hash of `split_by`, so that equal values stay together. Everything is fitted on the training split: tokenizer, classes, means.

    Args:
        path: the file; or a folder or name of a Hugging Face data set.
        validation_path: file of the validation split, in the same format.
        test_path: file of the test split, in the same format.
        format: auto goes by the file's ending, and takes folders for Hugging Face data sets.
        header: whether the first line of CSV and TSV names the columns.
        quoting: standard, or none where quotation marks in CSV and TSV are plain characters.
        text: column of texts.
        second: column of a text that is read after `text`, both as one sequence: a question and where it is answered, two sentences to compare.
        tokenizer: for the texts; null trains byte-level BPE with at most 8,000 tokens.
        max_length: tokens of a text; what follows is cut off.
        image: column of image paths, relative to `files`.
        image_size: side that images are resized to, in pixels.
        image_channels: 3 for colour, 1 for grey.
        audio: column of sound paths, relative to `files`.
        sample_rate: in hertz, that sound is resampled to.
        n_mels: mel channels of a spectrogram.
        max_seconds: of a clip; what follows is cut off.
        files: folder of the image and sound files; null takes the folder of `path`.
        numbers: columns of numbers.
        categories: columns of categories.
        missing: what an absent number becomes: refused, the training mean, or that with an indicator column.
        optional: inputs (text, image, audio, table) that a row may lack: an empty cell, or all of the table's, means that the sample has no such input.
            Elsewhere a row with an empty cell cannot be used. What takes such samples: model/encoder=fusion.
        target: column to be told, or several columns of numbers; with target_kind=pair the column that rows of one thing share, which may be an input;
            with target_kind=next_token, masked, context or dialogue that of `text` itself.
        target_kind: class; multi, several classes a row (a JSON list, or text with separators); number; pair, where a row's inputs belong together
            and nothing else is told (model/head=contrastive); next_token, a language model of the texts (model/head=next_token); tags, one for every
            word of the text, both as lists (model/head=token_classification); masked, words of the text that are hidden (model/head=masked_tokens,
            data/tokenizer=wordpiece); context, the words around each word (model/head=skip_gram); answer, a span of the text
            `second` that answers the question `text` (model/head=question_answering), empty where it has none, or as SQuAD has it; dialogue, what an
            assistant says in conversations (model/head=next_token): lists of `role` (system, user, assistant) and `content`; or text, which a decoder
            writes from what the row gives (model/decoder=transformer).
        answer_start: for target_kind=answer: column of the answer's first letter in `second`; null takes its first place there.
        chat_template: for target_kind=dialogue: how a conversation becomes text, Jinja as Hugging Face's tokenizers have it; null takes the one beside the
            tokenizer's file, or "ROLE: text" with what closes a text.
        learn: for target_kind=dialogue: the assistant's turns, or all.
        mask_share: for target_kind=masked: the share of words, or tokens, that are asked for.
        masking: for target_kind=masked: whole words, or tokens by themselves.
        target_tokenizer: for target_kind=text; null takes the inputs' tokenizer, trained on both, where there is a text, else byte-level BPE.
        target_max_length: tokens of a text that is written; null takes max_length.
        target_start: what a decoder begins with: auto (the tokenizer's own opening, or padding where it has none), pad (T5) or end (BART).
        separator: between the classes of one row, for multi.
        together: column whose equal values come in one batch of training, as far as it holds them: a model that compares rows (model/head=embedding) then
            learns from the differences within such a group. Rows that are told apart only with trouble make hard ones.
        split_column: column that says train, validation or test.
        split_by: column whose hash decides the split; null takes text, image or audio, the first that is not optional, else all inputs together.
        validation: part of the rows that validates, where nothing above says.
        test: part of the rows that tests, likewise.
    """

    def __init__(
        self,
        *,
        path: str,
        target: str | list[str],
        validation_path: str | None = None,
        test_path: str | None = None,
        format: Format = Format.AUTO,
        header: Header = Header.FIRST_LINE,
        quoting: Quoting = Quoting.STANDARD,
        text: str | None = None,
        second: str | None = None,
        tokenizer: Tokenizer | None = None,
        max_length: int = 128,
        image: str | None = None,
        image_size: int = 64,
        image_channels: int = 3,
        audio: str | None = None,
        sample_rate: int = 16000,
        n_mels: int = 64,
        max_seconds: float = 4.0,
        files: str | None = None,
        numbers: tuple[str, ...] = (),
        categories: tuple[str, ...] = (),
        missing: Missing = Missing.REFUSE,
        optional: tuple[str, ...] = (),
        target_kind: TargetKind = TargetKind.CLASS,
        answer_start: str | None = None,
        chat_template: str | None = None,
        learn: Learn = Learn.ASSISTANT,
        mask_share: float = 0.15,
        masking: Masking = Masking.WORDS,
        target_tokenizer: Tokenizer | None = None,
        target_max_length: int | None = None,
        target_start: Start = Start.AUTO,
        separator: str = "|",
        together: str | None = None,
        split_column: str | None = None,
        split_by: str | None = None,
        validation: float = 0.1,
        test: float = 0.1,
    ) -> None:
        check_fractions(validation, test)
        self.targets = [target] if isinstance(target, str) else list(target)
        if not self.targets or (len(self.targets) > 1 and target_kind is not TargetKind.NUMBER):
            raise ValueError(f"target={target}: one column, or with target_kind=number one or more")
        if split_column and (validation_path or test_path):
            raise ValueError(f"split_column={split_column!r} and separate files for splits: choose one")
        self.path, self.paths = path, {"train": path, "validation": validation_path, "test": test_path}
        self.format, self.header, self.quoting = format, header, quoting
        self.sources = {name: column for name, column in ((TEXT, text), (IMAGE, image), (AUDIO, audio)) if column is not None}
        self.numbers, self.categories, self.missing = numbers, categories, missing
        self.files, self.target_kind, self.separator = files, target_kind, separator
        self.together = together
        self.split_column, self.split_by, self.validation, self.test = split_column, split_by, validation, test
        self.codecs: dict[str, InputCodec] = {}
        self.written: str | None = None
        self.second, self.answer_start, self.learn = second, answer_start, learn
        if target_kind is not TargetKind.DIALOGUE and (chat_template is not None or learn is not Learn.ASSISTANT):
            raise ValueError(f"chat_template and learn are of conversations; target_kind={target_kind} has none, choose target_kind=dialogue")
        check_pair(text, second, target_kind, answer_start)
        if text is not None:
            tokenizer = tokenizer if tokenizer is not None else BpeTokenizer()
            if target_kind is TargetKind.DIALOGUE:
                self.codecs[TEXT] = DialogueCodec(name=TEXT, tokenizer=tokenizer, max_length=max_length, template=chat_template)
            elif second is not None:
                self.codecs[TEXT] = TextPairCodec(name=TEXT, tokenizer=tokenizer, max_length=max_length, first=text, second=second)
            else:
                kind = WordsCodec if target_kind is TargetKind.TAGS else TextCodec
                self.codecs[TEXT] = kind(name=TEXT, tokenizer=tokenizer, max_length=max_length)
        if image is not None:
            self.codecs[IMAGE] = ImageCodec(name=IMAGE, channels=image_channels, size=(image_size, image_size))
        if audio is not None:
            self.codecs[AUDIO] = AudioCodec(name=AUDIO, sample_rate=sample_rate, n_mels=n_mels, max_seconds=max_seconds)
        if numbers or categories:
            self.codecs[TABLE] = TableCodec(name=TABLE, numbers=numbers, categories=categories, missing=missing)
        if not self.codecs:
            raise ValueError("no input is named; give columns: text=COLUMN, image=COLUMN, audio=COLUMN, numbers=[...] or categories=[...]")
        if unknown := [name for name in optional if name not in self.codecs]:
            raise ValueError(f"optional={list(optional)}: there is no input {unknown[0]!r}; this data gives {', '.join(self.codecs)}")
        self.optional = tuple(dict.fromkeys(optional))
        self._write(target_tokenizer, target_max_length, target_start, max_length)
        inputs = {*self.sources.values(), *([] if second is None else [second]), *numbers, *categories}
        if target_kind is TargetKind.TAGS and text is None:
            raise ValueError("target_kind=tags is of the words of a text; name its column: text=COLUMN")
        self.mask_share, self.masking = mask_share, masking
        if target_kind in OF_THE_TEXT and self.targets != [text]:
            raise ValueError(f"target_kind={target_kind} tells the tokens of the text itself: text={text}, target={target} have to be one column")
        if target_kind not in (TargetKind.PAIR, *OF_THE_TEXT) and (leaks := inputs & set(self.targets)):
            raise ValueError(f"target={target} is among the inputs too ({', '.join(sorted(leaks))}); the answer would be given away")

    def _write(self, tokenizer: Tokenizer | None, max_length: int | None, start: Start, source_length: int) -> None:
        """What a decoder is given."""
        if self.target_kind is not TargetKind.TEXT:
            if given := [name for name, value in (("target_tokenizer", tokenizer), ("target_max_length", max_length)) if value is not None]:
                raise ValueError(f"{given[0]} is of a text that is written; target_kind={self.target_kind} writes none, choose target_kind=text")
            if start is not Start.AUTO:
                raise ValueError(f"target_start={start} is of a text that is written; target_kind={self.target_kind} writes none, choose target_kind=text")
            return
        if tokenizer is None:
            text = self.codecs.get(TEXT)
            tokenizer = text.tokenizer if isinstance(text, TextCodec) else BpeTokenizer()
        self.codecs[WRITTEN] = WrittenCodec(name=WRITTEN, tokenizer=tokenizer, max_length=source_length if max_length is None else max_length, start=start)
        self.written = self.targets[0]

    def sketch(self) -> DataSpec:
        target: TargetSpec
        if self.target_kind is TargetKind.NUMBER:
            target = NumberCodec(name=self.target_name, columns=self.targets, mean=[0.0] * len(self.targets), std=[1.0] * len(self.targets)).spec
        elif self.target_kind is TargetKind.PAIR:
            target = PairCodec(name=self.target_name).spec
        elif self.target_kind is TargetKind.NEXT_TOKEN:
            target = self._next_token().spec
        elif self.target_kind is TargetKind.MASKED:
            target = self._masked().spec
        elif self.target_kind is TargetKind.TAGS:
            target = TagTarget(name=self.target_name, labels=("a", "b"), of=TEXT, provisional=("labels",))
        elif self.target_kind is TargetKind.CONTEXT:
            target = self._context().sketch
        elif self.target_kind is TargetKind.DIALOGUE:
            target = self._said().spec
        elif self.target_kind is TargetKind.ANSWER:
            target = self._answer().spec
        elif self.target_kind is TargetKind.TEXT:
            target = self._written_token().spec
        else:
            target = ClassCodec(name=self.target_name, labels=("a", "b"), labelling=self._labelling).spec.sketched("labels", "counts")
        categories = tuple(2 for _ in self.categories)
        specs: list[InputSpec] = []
        for name, known in self.codecs.items():
            spec = known.spec
            spec = replace(spec, optional=name in self.optional)
            specs.append(replace(spec, categories=categories) if isinstance(spec, TableInput) else spec)
        return DataSpec(inputs=tuple(specs), targets=(target,))

    @property
    def table(self) -> tuple[str, ...]:
        """Columns of the input `table`."""
        return (*self.numbers, *self.categories)

    @property
    def target_name(self) -> str:
        return TARGET_NAMES[self.target_kind]

    @property
    def _labelling(self) -> Labelling:
        return Labelling.MULTI if self.target_kind is TargetKind.MULTI else Labelling.SINGLE

    def open(self) -> OpenData:
        splits, rule = self._splits()
        train = splits["train"]
        self._fit(train)
        target = self._target(train)
        return OpenData(
            inputs=self.codecs,
            targets={target.spec.name: target},
            splits=splits,
            notes={"source": Path(self.path).name, "split": f"{rule}; {', '.join(f'{name} {len(part)}' for name, part in splits.items())}"},
            optional=self.optional,
        )

    def _splits(self) -> "tuple[dict[str, TableSplit], str]":
        others = [entry for entry in (self.split_column, self.split_by, self.together, self.second, self.answer_start) if entry]
        wanted = list(dict.fromkeys([*self.sources.values(), *self.numbers, *self.categories, *self.targets, *others]))
        holes = [self.sources[name] for name in self.optional if name in self.sources] + [column for column in self.table if TABLE in self.optional]
        read = {name: read_rows(path, self.format, wanted, self.header, self.quoting, holes) for name, path in self.paths.items() if path is not None}
        if len(read) > 1:
            if several := [self.paths[name] for name, parts in read.items() if set(parts) != {""}]:
                raise DataError(f"{', '.join(map(str, several))}: has splits of its own; give path alone")
            return {name: self._split(parts[""], None) for name, parts in read.items()}, "by file"
        parts = read["train"]
        if "" not in parts:
            named: dict[str, Rows] = {}
            for name, rows in parts.items():
                if found := SPLIT_FOLDERS.get(name.lower()):
                    named[found] = rows
            if "train" not in named:
                raise DataError(f"{self.path}: its splits are {', '.join(parts)}; one has to be named train")
            if len(named) > 1:
                return {name: self._split(rows, None) for name, rows in named.items()}, "the data set's own"
            parts = {"": named["train"]}
        rows = parts[""]
        if self.split_column is not None:
            return self._by_column(rows, self.split_column), f"by column {self.split_column}"
        chosen = hash_split(self._split_texts(rows), validation=self.validation, test=self.test)
        by = self._split_column() or "all inputs"
        return {name: self._split(rows, part) for name, part in chosen.items()}, f"by hash of {by}: test {self.test:g}, validation {self.validation:g}"

    def _split_column(self) -> str | None:
        return self.split_by or next((column for name, column in self.sources.items() if name not in self.optional), None)

    def _split_texts(self, rows: Rows) -> Sequence[str]:
        if by := self._split_column():
            return [str(value) for value in rows.column(by)]
        columns = [rows.column(name) for name in (*self.sources.values(), *self.table)]
        return ["\x1f".join(map(str, values)) for values in zip(*columns, strict=True)]

    def _by_column(self, rows: Rows, column: str) -> "dict[str, TableSplit]":
        found = [SPLIT_FOLDERS.get(str(value).strip().lower()) for value in rows.column(column)]
        if None in found:
            raise DataError(f"{rows.origin}: column {column!r} holds {rows.row(found.index(None))[column]!r}; expected train, validation or test")
        if "train" not in found:
            raise DataError(f"{rows.origin}: column {column!r} names no row for train")
        return {
            name: self._split(rows, torch.tensor([row for row, split in enumerate(found) if split == name]))
            for name in ("train", "validation", "test")
            if name in found
        }

    def _split(self, rows: Rows, chosen: Tensor | None) -> "TableSplit":
        folder = home(self.files) if self.files is not None else home(self.path).parent
        target = self.target_name, tuple(self.targets)
        return TableSplit(
            rows,
            chosen,
            sources=self.sources,
            files=folder,
            table=self.table,
            target=target,
            optional=frozenset(self.optional),
            written=self.written,
            bound=self.together,
            second=self.second,
            answer_start=self.answer_start,
        )

    def _fit(self, train: "TableSplit") -> None:
        for name, codec in self.codecs.items():
            match codec:
                case TextCodec():
                    texts = train.column(self.sources[name])
                    if isinstance(codec, DialogueCodec):
                        codec.fit(texts)
                        continue
                    if self._shares(codec):
                        texts = [*texts, *train.column(self.targets[0])]
                    if isinstance(codec, TextPairCodec):
                        texts = [*texts, *train.column(codec.second)]
                    if isinstance(codec, WordsCodec):
                        texts = [" ".join(found) for found in usable(lambda raw: words_of(raw)[0], texts)]
                    codec.fit([str(text) for text in texts if text is not None and not (name in self.optional and is_empty(text))])
                case WrittenCodec():
                    if any(isinstance(other, TextCodec) and self._shares(other) for other in self.codecs.values()):
                        codec.check()
                    else:
                        codec.fit([str(text) for text in train.column(self.targets[0]) if not is_empty(text)])
                case AudioCodec():
                    clips = [row for row, clip in enumerate(train.column(self.sources[name])) if name not in self.optional or not is_empty(clip)]
                    codec.fit(raw[name] for raw in usable(train.only({name}).read, clips[:: max(1, len(clips) // FIT_CLIPS)]))
                case TableCodec():
                    columns = {column: train.column(column) for column in self.table}
                    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
                    codec.fit([row for row in rows if name not in self.optional or not all(map(is_missing, row.values()))])

    def _shares(self, codec: TextCodec) -> bool:
        """Whether a text has one vocabulary with what is written."""
        written = self.codecs.get(WRITTEN)
        return isinstance(written, WrittenCodec) and written.tokenizer is codec.tokenizer

    def _next_token(self) -> NextTokenCodec:
        text = self.codecs[TEXT]
        assert isinstance(text, TextCodec)
        return NextTokenCodec(name=self.target_name, text=text)

    def _masked(self) -> MaskedTokenCodec:
        text = self.codecs[TEXT]
        assert isinstance(text, TextCodec)
        return MaskedTokenCodec(name=self.target_name, text=text, share=self.mask_share, masking=self.masking)

    def _context(self) -> ContextCodec:
        text = self.codecs[TEXT]
        assert isinstance(text, TextCodec)
        return ContextCodec(name=self.target_name, text=text)

    def _answer(self) -> AnswerCodec:
        texts = self.codecs[TEXT]
        assert isinstance(texts, TextPairCodec)
        return AnswerCodec(name=self.target_name, texts=texts)

    def _said(self) -> SaidCodec:
        dialogue = self.codecs[TEXT]
        assert isinstance(dialogue, DialogueCodec)
        return SaidCodec(name=self.target_name, dialogue=dialogue, learn=self.learn)

    def _written_token(self) -> WrittenTokenCodec:
        written = self.codecs[WRITTEN]
        assert isinstance(written, WrittenCodec)
        return WrittenTokenCodec(name=self.target_name, written=written)

    def _target(self, train: "TableSplit") -> TargetCodec:
        if self.target_kind is TargetKind.NUMBER:
            return NumberCodec.fit(self.target_name, self.targets, zip(*(train.column(column) for column in self.targets), strict=True))
        if self.target_kind is TargetKind.PAIR:
            return PairCodec(name=self.target_name)
        if self.target_kind is TargetKind.NEXT_TOKEN:
            return self._next_token()
        if self.target_kind is TargetKind.MASKED:
            return self._masked()
        if self.target_kind is TargetKind.TAGS:
            words = self.codecs[TEXT]
            assert isinstance(words, WordsCodec)
            return TagCodec.fit(self.target_name, train.column(self.targets[0]), words)
        if self.target_kind is TargetKind.CONTEXT:
            return self._context().counted(str(text) for text in train.column(self.targets[0]) if not is_empty(text))
        if self.target_kind is TargetKind.DIALOGUE:
            return self._said()
        if self.target_kind is TargetKind.ANSWER:
            return self._answer()
        if self.target_kind is TargetKind.TEXT:
            return self._written_token()
        return ClassCodec.fit(self.target_name, train.column(self.targets[0]), labelling=self._labelling, separator=self.separator)


def check_pair(text: str | None, second: str | None, target_kind: TargetKind, answer_start: str | None) -> None:
    """Whether two texts are named where they are needed, and one where they are not.

    Raises:
        ValueError: with the way out.
    """
    if second is not None and text is None:
        raise ValueError(f"second={second} goes with a first text; name its column: text=COLUMN")
    if target_kind is TargetKind.ANSWER and second is None:
        raise ValueError("target_kind=answer is a span of a second text; name its column: second=COLUMN, the question's being text=COLUMN")
    if second is not None and target_kind in (TargetKind.TAGS, *OF_THE_TEXT):
        raise ValueError(f"second={second}: target_kind={target_kind} is of one text; leave it out")
    if answer_start is not None and target_kind is not TargetKind.ANSWER:
        raise ValueError(f"answer_start={answer_start} is of target_kind=answer; leave it out")


def is_empty(value: Any) -> bool:
    """Whether a cell of text or of a file holds nothing."""
    return value is None or value == ""


class TableSplit:
    """Rows of a table as samples.

    Args:
        rows: of the file.
        chosen: numbers of the split's rows; None takes all.
        sources: input -> column, for text and files.
        files: folder that the paths of files are relative to.
        table: columns of the input `table`.
        target: its name and columns; None for inputs alone.
        optional: inputs that a row may lack; they are None where it does.
        written: column of the text that a decoder writes; None where there is none.
        second: column of the second of two texts; None where there is one.
        answer_start: column of an answer's first letter; None where nothing tells it.
        bound: column whose equal values belong into one batch; None where nothing binds rows.
    """

    def __init__(
        self,
        rows: Rows,
        chosen: Tensor | None,
        *,
        sources: Mapping[str, str],
        files: Path,
        table: Sequence[str],
        target: tuple[str, tuple[str, ...]] | None,
        optional: Collection[str] = (),
        written: str | None = None,
        bound: str | None = None,
        second: str | None = None,
        answer_start: str | None = None,
    ) -> None:
        self.written, self.bound, self.second, self.answer_start = written, bound, second, answer_start
        self.rows, self.chosen, self.sources, self.files, self.table, self.target = rows, chosen, dict(sources), files, tuple(table), target
        self.optional = optional

    def __len__(self) -> int:
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def read(self, index: int) -> Mapping[str, Any]:
        row = self.rows.row(self._row(index))
        raw: dict[str, Any] = {}
        for name, column in self.sources.items():
            value = row[column]
            if is_empty(value):
                if name not in self.optional:
                    keep = f" (data.optional=[{name}] keeps such rows)" if len(self.sources) > 1 else ""
                    raise DataError(f"column {column!r} is empty{keep}")
                raw[name] = None
                continue
            raw[name] = self.files / value if name != TEXT and isinstance(value, str) else value
            if name == TEXT and self.second is not None:
                raw[name] = {column: value, self.second: row[self.second]}
        if self.table:
            figures = {column: row[column] for column in self.table}
            raw[TABLE] = None if TABLE in self.optional and all(map(is_missing, figures.values())) else figures
        if self.target is not None:
            name, columns = self.target
            raw[name] = [row[column] for column in columns] if name == TARGET_NAMES[TargetKind.NUMBER] else row[columns[0]]
            if name == TARGET_NAMES[TargetKind.TAGS]:
                raw[name] = {"words": raw[TEXT], "tags": raw[name]}
            if name == TARGET_NAMES[TargetKind.ANSWER]:
                raw[name] = {"texts": raw[TEXT], "answer": raw[name], "start": None if self.answer_start is None else row[self.answer_start]}
        if self.written is not None:
            raw[WRITTEN] = row[self.written]
        return raw

    def only(self, names: Collection[str]) -> "TableSplit":
        return TableSplit(
            self.rows,
            self.chosen,
            sources={name: column for name, column in self.sources.items() if name in names},
            files=self.files,
            table=self.table if TABLE in names else (),
            target=self.target if self.target is not None and self.target[0] in names else None,
            optional=self.optional,
            written=self.written if WRITTEN in names else None,
            bound=self.bound,
            second=self.second if TEXT in names else None,
            answer_start=self.answer_start,
        )

    def together(self) -> Tensor | None:
        if self.bound is None:
            return None
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(str(value), len(numbers)) for value in self.column(self.bound)])

    def describe(self, index: int) -> str:
        return f"{self.rows.origin}, row {self._row(index) + 1}"

    def column(self, name: str) -> Sequence[Any]:
        values = list(self.rows.column(name))
        return values if self.chosen is None else [values[row] for row in self.chosen.tolist()]

    def _row(self, index: int) -> int:
        return index if self.chosen is None else int(self.chosen[index])
