"""A corpus as one long row of tokens on disk, made once: files larger than memory are read as they are asked for, in any order.

Letters: D documents, T tokens, W windows.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.base import Tokenizer
from zoo.data.tokenizers.subword import SubwordTokenizer
from zoo.errors import DataError

CHUNK = 1 << 20
FORMAT = 1


@dataclass(frozen=True)
class Tokens:
    """A window of a document.

    Args:
        ids: N.
        following: N, the token after each.
        size: bytes of UTF-8 that the following tokens stand for.
    """

    ids: Tensor
    following: Tensor
    size: int


class TokenFile:
    """Tokens of the documents of one split, memory-mapped.

    Args:
        folder: of its files.
        split: its name.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.ids = np.memmap(folder / f"{split}.tokens", dtype=np.uint32, mode="r")
        self.ends = np.memmap(folder / f"{split}.bytes", dtype=np.int64, mode="r")  # bytes of its document up to the end of each token
        self.starts = np.load(folder / f"{split}.documents.npy")  # D + 1
        self.numbers = np.load(folder / f"{split}.numbers.npy")  # D, of the document among all

    def windows(self, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First token and number of tokens of each window, W: neighbours within a document, so that each token but the first is told once."""
        counts = np.maximum(np.diff(self.starts) - 1, 0)  # tokens that are told, of each document
        each = -(-counts // length)
        documents = np.repeat(np.arange(len(each)), each)
        place = np.arange(len(documents)) - np.repeat(np.cumsum(each) - each, each)
        first = self.starts[documents] + place * length
        return first, np.minimum(length, counts[documents] - place * length)

    def read(self, first: int, count: int) -> Tokens:
        """The window of ``count`` tokens from the file's token ``first`` on."""
        ids = torch.from_numpy(self.ids[first : first + count + 1].astype(np.int64))
        return Tokens(ids[:-1], ids[1:], int(self.ends[first + count] - self.ends[first]))


def encoded(tokenizer: Tokenizer, text: str) -> tuple[list[int], NDArray[np.int64]]:
    """Identifiers of a document, and how many bytes of it the tokens up to each hold; the last one's are all."""
    if isinstance(tokenizer, SubwordTokenizer):
        encoding = tokenizer.encoding(text)
        ids, offsets = encoding.ids, encoding.offsets
    else:
        ids, offsets = tokenizer.encode(text), tokenizer.offsets(text)
    letters = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)  # of half a character, what takes its place
    sizes = 1 + (letters >= 0x80).astype(np.int64) + (letters >= 0x800) + (letters >= 0x10000)
    bytes_before = np.concatenate([np.zeros(1, dtype=np.int64), sizes.cumsum()])
    if not len(ids):
        return [], np.zeros(0, dtype=np.int64)
    ends = np.maximum.accumulate(bytes_before[np.minimum([end for _, end in offsets], len(text))])
    ends[-1] = bytes_before[-1]
    return ids, ends


def write(folder: Path, split: str, documents: Iterator[tuple[int, str]], tokenizer: Tokenizer) -> int:
    """Tokenise documents, one at a time; how many tokens there are.

    Args:
        folder: to write to.
        split: its name.
        documents: number and text of each.
        tokenizer: trained.
    """
    starts, numbers, total = [0], [], 0
    with (folder / f"{split}.tokens").open("wb") as ids_file, (folder / f"{split}.bytes").open("wb") as ends_file:
        for number, text in documents:
            ids, ends = encoded(tokenizer, text)
            if not len(ids):
                continue
            np.asarray(ids, dtype=np.uint32).tofile(ids_file)
            ends.astype(np.int64).tofile(ends_file)
            total += len(ids)
            starts.append(total)
            numbers.append(number)
    np.save(folder / f"{split}.documents.npy", np.asarray(starts, dtype=np.int64))
    np.save(folder / f"{split}.numbers.npy", np.asarray(numbers, dtype=np.int64))
    return total


def digest_of(files: Sequence[Path]) -> str:
    """Of what files hold, in their order; read once, piece by piece."""
    found = blake2b(digest_size=16)
    for path in files:
        found.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as stream:
            while piece := stream.read(CHUNK):
                found.update(piece)
    return found.hexdigest()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Of a trained tokenizer's own files."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return digest_of(sorted(path for path in Path(folder).iterdir() if path.is_file()))


def prepared(root: Path, facts: Mapping[str, Any], splits: Mapping[str, Callable[[], Iterator[tuple[int, str]]]], tokenizer: Tokenizer) -> Path:
    """The folder with the tokens of all splits; made, and published whole, where it is not there yet.

    Args:
        root: of all such folders.
        facts: whatever decides about the tokens, as plain values.
        splits: name -> its documents, anew each time.
        tokenizer: trained.

    Raises:
        DataError: where it cannot be written.
    """
    facts = {"format": FORMAT, "tokenizer": tokenizer_digest(tokenizer), "splits": sorted(splits), **facts}
    key = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    final = root / key
    if (final / "complete.json").is_file():
        return final
    partial: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=root, prefix=".partial-"))
        counts = {}
        for split, documents in splits.items():
            counts[split] = write(partial, split, documents(), tokenizer)
        (partial / "complete.json").write_text(json.dumps({**facts, "tokens": counts}, indent=1) + "\n", encoding="utf-8")
        try:
            partial.rename(final)  # only what is complete has the final name
        except OSError:
            if not (final / "complete.json").is_file():  # another process was first: its folder is the same
                raise
        sys.stderr.write(f"corpus: {', '.join(f'{split} {count:,} tokens' for split, count in counts.items())}, kept in {final}\n")
    except OSError as error:
        raise DataError(f"{root}: the tokens of the corpus cannot be written: {error}\n  way out: ZOO_CACHE=FOLDER on another disk") from error
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
    return final
