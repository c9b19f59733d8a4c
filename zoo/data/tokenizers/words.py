"""Whole words: those that occur often enough in the training split."""

from typing import TYPE_CHECKING, ClassVar

from zoo.data.tokenizers import subword
from zoo.registry import TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD, UNKNOWN = "[PAD]", "[UNK]"


@TOKENIZERS.register("words")
class WordsTokenizer(subword.SubwordTokenizer):
    """Runs of letters and digits, one identifier each, the most frequent first; 0 pads, 1 stands for every other word. Nothing opens or closes a text.

    Args:
        vocab_size: identifiers at most, the 2 special tokens included.
        lowercase: fold to lower case first.
        min_frequency: occurrences in the training texts below which a word is unknown.
        path: a `tokenizer.json` of the `tokenizers` library, its folder, or the name of a pretrained model, to load instead of training;
            it decides about everything above.
    """

    kind: ClassVar[str] = "words"

    def __init__(self, *, vocab_size: int = 50_000, lowercase: bool = True, min_frequency: int = 5, path: str | None = None) -> None:
        if vocab_size < 3:
            raise ValueError(f"vocab_size={vocab_size}: the 2 special tokens leave no word; 3 or more")
        if min_frequency < 1:
            raise ValueError(f"min_frequency={min_frequency}: a word occurs once at least; 1 or more")
        super().__init__(vocab_size=vocab_size, path=path)
        self.lowercase, self.min_frequency = lowercase, min_frequency

    def _trained(self, texts: list[str]) -> "Library":
        from collections import Counter

        from tokenizers import Regex, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Library

        library = Library(models.WordLevel({PAD: 0, UNKNOWN: 1}, unk_token=UNKNOWN))
        library.add_special_tokens([PAD, UNKNOWN])
        library.normalizer = normalizers.Lowercase() if self.lowercase else None
        # An apostrophe inside a word belongs to it: "don't" is one word.
        library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\p{N}]+(['’][\p{L}\p{M}]+)*"), behavior="removed", invert=True)
        folded = (library.normalizer.normalize_str(text) for text in texts) if library.normalizer is not None else texts
        counts = Counter(word for text in folded for word, _ in library.pre_tokenizer.pre_tokenize_str(text))
        # The library's trainer breaks ties by a hash; here by the word itself.
        often = sorted((word for word, count in counts.items() if count >= self.min_frequency), key=lambda word: (-counts[word], word))
        words = [word for word in often if word not in (PAD, UNKNOWN)][: self.vocab_size - 2]
        library.model = models.WordLevel({PAD: 0, UNKNOWN: 1} | {word: number for number, word in enumerate(words, 2)}, unk_token=UNKNOWN)
        return library
