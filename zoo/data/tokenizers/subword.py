"""What tokenizers of the `tokenizers` library share: loading, encoding with special tokens, decoding, saving."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from zoo.errors import CheckpointError, ZooError
from zoo.fetching import fetching
from zoo.files import home

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Library

# Its threads would survive into forked loader processes as locks that nobody opens; a batch is small, so they gain nothing.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

BYTE_SPACE = "Ġ"
"""Byte-level tokenizers' letter for a space."""
PADDING = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")
MASKS = ("[MASK]", "<mask>")
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
"""Fill as well, in tokenizers without a token of padding: what fills is masked out."""


def located(path: str) -> Path:
    """What ``path=`` means: a file or folder, or the tokenizer of a model by its name or address, which is fetched where it is not here yet. A folder of
    another library without a tokenizer.json stands for the tokenizer of the model that it is converted to.

    Raises:
        CheckpointError: where there is none.
    """
    from zoo.hub.local import is_foreign
    from zoo.hub.resolve import exists, resolve

    here = home(path)
    converts = is_foreign(here) and not (here / "tokenizer.json").is_file()  # with an older tokenizer's files, which its converter reads
    if exists(here) and not converts:
        if here.is_dir() and not (here / "tokenizer.json").is_file() and (found := sorted(here.glob("**/processor/*/tokenizer.json"))):
            return found[0]
        return here
    folder = resolve(path)
    found = sorted(folder.glob("processor/*/tokenizer.json"))
    if len(found) != 1:
        raise CheckpointError(f"{path}: has {len(found)} tokenizers, where one was asked for; it is in {folder}")
    return found[0]


def read(path: Path) -> "Library":
    """A `tokenizer.json`, or the one in a folder; truncation and padding that were saved with it are left to the caller.

    Raises:
        CheckpointError: where it is missing or no such file.
    """
    from tokenizers import Tokenizer as Library

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"no tokenizer at {file}")
    try:
        library = Library.from_file(str(file))
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as a tokenizer.json: {error}") from error
    library.no_truncation()
    library.no_padding()
    return library


def padding_id(library: "Library", file: str) -> int:
    """The padding token's identifier.

    Raises:
        CheckpointError: where the vocabulary has none under a usual name.
    """
    for token in (*PADDING, *ENDS):
        if (found := library.token_to_id(token)) is not None:
            return found
    raise CheckpointError(f"{file} has no padding token; looked for {', '.join((*PADDING, *ENDS))}")


def encode(library: "Library", text: str, max_length: int | None) -> list[int]:
    """Identifiers with special tokens; a long text loses its end, not its special tokens."""
    text = sound(text)
    if max_length is None:
        return library.encode(text).ids
    plain = library.encode(text, add_special_tokens=False)
    plain.truncate(room(library, max_length))
    return library.post_process(plain).ids


def cut_at(library: "Library", text: str, max_length: int) -> int | None:
    """Bytes of the text's UTF-8 that so many tokens hold; None where they hold all of it.

    Exact where tokens are made of bytes, inside a character too. Other tokens are made of characters, and so are those of a text that the tokenizer changed
    to another size first: they hold what lies before the end of the last of them.
    """
    text = sound(text)
    plain, kept = library.encode(text, add_special_tokens=False), room(library, max_length)
    if len(plain.ids) <= kept:
        return None
    sizes = byte_sizes(library, plain.ids, plain.tokens)
    added = plain.tokens[0].startswith(BYTE_SPACE) and not text.startswith(" ")  # GPT-2's way to make the first word one like the others
    size = len(text.encode("utf-8"))
    if sizes is not None and sum(sizes) - added == size:
        return size - sum(sizes[kept:])
    return len(text[: max((end for _, end in plain.offsets[:kept]), default=0)].encode("utf-8"))


def byte_sizes(library: "Library", ids: Sequence[int], tokens: Sequence[str]) -> list[int] | None:
    """Of tokens whose names have a letter a byte; None where they are no such tokens."""
    from tokenizers import decoders

    if not isinstance(library.decoder, decoders.ByteLevel):
        return None
    whole = library.get_added_tokens_decoder()  # stand in the text by their own names
    return [len(token.encode("utf-8")) if number in whole else len(token) for number, token in zip(ids, tokens, strict=True)]


def room(library: "Library", max_length: int) -> int:
    """Tokens of text beside the special ones."""
    return max(0, max_length - library.num_special_tokens_to_add(False))


def sound(text: str) -> str:
    """Lone surrogates are no text to the library."""
    return text.encode("utf-8", "replace").decode("utf-8")


def save(library: "Library", folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(library.to_str(pretty=False) + "\n", encoding="utf-8")


def texts_of(texts: Sequence[str]) -> list[str]:
    return [sound(text) for text in texts]


class SubwordTokenizer(ABC):
    """All but the training.

    Args:
        vocab_size: at most, before training.
        path: of a `tokenizer.json` to take instead of training, or the name of a pretrained model whose tokenizer it is.
    """

    def __init__(self, *, vocab_size: int = 8000, path: str | None = None) -> None:
        self.vocab_size, self.path, self.pad_id = vocab_size, path, 0
        self._library: Library | None = None
        if path is not None:
            self._look()

    def train(self, texts: Sequence[str]) -> None:
        if self._library is None:
            self._use(read(located(self.path)) if self.path is not None else self._trained(texts_of(texts)))

    def _look(self) -> None:
        """Load what is here already, so that a sketch of the data knows the vocabulary. What has to be fetched is, when the data is opened.

        Raises:
            ValueError: where there is no such file, and no model of that name.
        """
        from zoo.hub.wanted import OfflineError

        assert self.path is not None
        try:
            with fetching(False):
                self._use(read(located(self.path)))
        except OfflineError:
            return
        except ZooError as error:
            raise ValueError(f"path={self.path}: {error}") from error

    @abstractmethod
    def _trained(self, texts: list[str]) -> "Library":
        """A library's tokenizer with a vocabulary of these texts."""

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        return encode(self.library, text, max_length) or [self.pad_id]

    def prompt(self, text: str) -> list[int]:
        ids = self.encode(text)
        return ids[: len(ids) - len(self._closing)] or ids

    @property
    def begin_id(self) -> int | None:
        found = self.library.encode("a")
        return found.ids[0] if found.special_tokens_mask[0] else None

    @property
    def end_id(self) -> int | None:
        return self._closing[0] if self._closing else None

    @cached_property
    def _closing(self) -> list[int]:
        """Special tokens after a text."""
        found = self.library.encode("a")
        last = max(place for place, special in enumerate(found.special_tokens_mask) if not special)
        return found.ids[last + 1 :]

    def encoding(self, text: str, max_length: int | None = None) -> "Encoding":
        """The library's own account of ``encode``: identifiers, words and places in the text by token."""
        text = sound(text)
        if max_length is None:
            return self.library.encode(text)
        plain = self.library.encode(text, add_special_tokens=False)
        plain.truncate(room(self.library, max_length))
        return self.library.post_process(plain)

    def offsets(self, text: str, max_length: int | None = None) -> list[tuple[int, int]]:
        return self.encoding(text, max_length).offsets

    @property
    def mask_id(self) -> int | None:
        """The token that stands for one that is to be told; None where there is none."""
        return next((found for token in MASKS if (found := self.library.token_to_id(token)) is not None), None)

    @cached_property
    def separator_id(self) -> int | None:
        """The token that closes the first of two texts; None where nothing stands between them, or the tokenizer is still to be trained."""
        if self._library is None:
            return None
        found = self._library.encode("a", "a")
        last = max(place for place, text in enumerate(found.sequence_ids) if text == 0)
        return found.ids[last + 1] if found.sequence_ids[last + 1] is None else None

    def pieces(self, text: str, *, special: bool) -> list[int]:
        """Identifiers of a part of a text, without what opens and closes whole ones.

        Args:
            text: of any length, empty too.
            special: whether the names of special tokens stand for these; otherwise they are letters like others.
        """
        library = self.library
        library.encode_special_tokens = not special
        try:
            return library.encode(text, add_special_tokens=False).ids
        finally:
            library.encode_special_tokens = False

    @property
    def chat_template(self) -> str | None:
        """What stands beside the tokenizer's file for conversations: `chat_template.jinja`, or an entry of `tokenizer_config.json`; None without."""
        if self.path is None or not (folder := home(self.path)).exists():
            return None
        folder = folder if folder.is_dir() else folder.parent
        if (file := folder / "chat_template.jinja").is_file():
            return file.read_text(encoding="utf-8")
        if not (file := folder / "tokenizer_config.json").is_file():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
        except ValueError as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        return found if isinstance(found, str) else None

    def close_with(self, token: str) -> None:
        """Put a token of the vocabulary behind every text from now on, after whatever the tokenizer adds by itself."""
        from tokenizers import processors

        closing = processors.TemplateProcessing(single=f"$A {token}", pair=f"$A $B {token}", special_tokens=[(token, self.library.token_to_id(token))])
        before = self.library.post_processor
        self.library.post_processor = closing if before is None else processors.Sequence([before, closing])
        self.__dict__.pop("_closing", None)

    def cut_at(self, text: str, max_length: int) -> int | None:
        return cut_at(self.library, text, max_length)

    def decode(self, ids: Sequence[int]) -> str:
        return self.library.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        save(self.library, folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        tokenizer = cls()
        tokenizer._use(read(folder))
        return tokenizer

    @property
    def library(self) -> "Library":
        """The `tokenizers` object behind it; trained or loaded by then."""
        assert self._library is not None, "train() or load() comes first"
        return self._library

    def _use(self, library: "Library") -> None:
        self.__dict__.pop("separator_id", None)
        self._library, self.vocab_size = library, library.get_vocab_size()
        self.pad_id = padding_id(library, self.path or "tokenizer.json")
