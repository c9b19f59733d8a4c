"""Characters: every one that occurs in the training split."""

from typing import TYPE_CHECKING, ClassVar

from zoo.data.tokenizers import subword
from zoo.registry import TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD, UNKNOWN = "[PAD]", "[UNK]"


@TOKENIZERS.register("character")
class CharacterTokenizer(subword.SubwordTokenizer):
    """Unicode code points, one identifier each, in their order; 0 pads, 1 stands for every other one. Nothing opens or closes a text.

    Args:
        vocab_size: identifiers at most, the 2 special tokens included; the rarest characters are left out.
        lowercase: fold to lower case first.
        path: a `tokenizer.json` of the `tokenizers` library, its folder, or the name of a pretrained model, to load instead of training;
            it decides about everything above.
    """

    kind: ClassVar[str] = "character"

    def __init__(self, *, vocab_size: int = 1000, lowercase: bool = False, path: str | None = None) -> None:
        if vocab_size < 3:
            raise ValueError(f"vocab_size={vocab_size}: the 2 special tokens leave no character; 3 or more")
        super().__init__(vocab_size=vocab_size, path=path)
        self.lowercase = lowercase

    def _trained(self, texts: list[str]) -> "Library":
        from collections import Counter

        from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
        from tokenizers import Tokenizer as Library

        library = Library(models.WordLevel({PAD: 0, UNKNOWN: 1}, unk_token=UNKNOWN))
        library.add_special_tokens([PAD, UNKNOWN])
        library.normalizer = normalizers.Lowercase() if self.lowercase else None
        library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        library.decoder = decoders.Fuse()
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text if library.normalizer is None else library.normalizer.normalize_str(text))
        kept = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[: self.vocab_size - 2])
        library.model = models.WordLevel({PAD: 0, UNKNOWN: 1} | {letter: number for number, letter in enumerate(kept, 2)}, unk_token=UNKNOWN)
        return library
