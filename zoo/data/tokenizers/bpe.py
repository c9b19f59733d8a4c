"""Byte-level byte-pair encoding (Radford et al., 2019, GPT-2; Sennrich et al., 2016, https://arxiv.org/abs/1508.07909)."""

from typing import TYPE_CHECKING, ClassVar

from zoo.data.tokenizers import subword
from zoo.registry import TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"


@TOKENIZERS.register("bpe")
class BpeTokenizer(subword.SubwordTokenizer):
    """Byte pairs merged by frequency; any text can be held, and decoding gives it back. `<bos>` text `<eos>`, 0 pads.

    Args:
        vocab_size: identifiers at most, 256 bytes and 3 special tokens included; 259 or more.
        lowercase: fold the text to lower case first.
        min_frequency: occurrences of a pair in the training texts below which it is not merged.
        path: a `tokenizer.json` of the `tokenizers` library, its folder, or the name of a pretrained model, to load instead of training;
            it decides about everything above.
    """

    kind: ClassVar[str] = "bpe"

    def __init__(self, *, vocab_size: int = 8000, lowercase: bool = False, min_frequency: int = 2, path: str | None = None) -> None:
        if vocab_size < 259:
            raise ValueError(f"vocab_size={vocab_size}: the 256 bytes and 3 special tokens need 259")
        super().__init__(vocab_size=vocab_size, path=path)
        self.lowercase, self.min_frequency = lowercase, min_frequency

    def _trained(self, texts: list[str]) -> "Library":
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

        library = Library(models.BPE())
        library.normalizer = normalizers.Lowercase() if self.lowercase else None
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=[PAD, BEGIN, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        library.train_from_iterator(texts, trainer)
        library.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A {END}", pair=f"{BEGIN} $A {END} $B:1 {END}:1", special_tokens=[(BEGIN, 1), (END, 2)]
        )
        return library
