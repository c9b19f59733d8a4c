"""Unigram language model over pieces (Kudo, 2018, https://arxiv.org/abs/1804.10959), as SentencePiece has it and T5 uses it."""

from typing import TYPE_CHECKING, ClassVar

from zoo.data.tokenizers import subword
from zoo.registry import TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
BYTES = tuple(f"<0x{number:02X}>" for number in range(256))


@TOKENIZERS.register("unigram")
class UnigramTokenizer(subword.SubwordTokenizer):
    """The likeliest pieces of a text, by a probability for each piece; spaces belong to the pieces behind them, and runs of spaces become one. What has no
    piece is written by its bytes, so that any text can be held. Text `</s>`, 0 pads.

    Args:
        vocab_size: identifiers at most, the 3 special tokens and 256 bytes included; 300 or more.
        lowercase: fold to lower case first.
        path: a `tokenizer.json` of the `tokenizers` library, its folder, or the name of a pretrained model, to load instead of training;
            it decides about everything above.
    """

    kind: ClassVar[str] = "unigram"

    def __init__(self, *, vocab_size: int = 8000, lowercase: bool = False, path: str | None = None) -> None:
        if vocab_size < 300:
            raise ValueError(f"vocab_size={vocab_size}: 256 bytes, 3 special tokens and an alphabet need 300 or more")
        super().__init__(vocab_size=vocab_size, path=path)
        self.lowercase = lowercase

    def _trained(self, texts: list[str]) -> "Library":
        import json

        from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
        from tokenizers import Tokenizer as Library

        draft = Library(models.Unigram())
        steps = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), *([normalizers.Lowercase()] if self.lowercase else [])]
        draft.normalizer = normalizers.Sequence(steps)
        draft.pre_tokenizer = pre_tokenizers.Metaspace()
        special = [PAD, END, UNKNOWN]
        size = max(len(special) + 1, self.vocab_size - len(BYTES))
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token=UNKNOWN, show_progress=False)
        draft.train_from_iterator(texts, trainer)
        pieces = [(piece, score) for piece, score in json.loads(draft.to_str())["model"]["vocab"] if piece not in special]
        lowest = min((score for _, score in pieces), default=0.0) - 10  # below every piece: bytes only where nothing else is
        vocabulary = [(PAD, 0.0), (END, 0.0), (UNKNOWN, 0.0), *((byte, lowest) for byte in BYTES), *pieces]
        library = Library(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
        library.normalizer, library.pre_tokenizer = draft.normalizer, draft.pre_tokenizer
        library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        library.add_special_tokens(special)
        library.post_processor = processors.TemplateProcessing(single=f"$A {END}", pair=f"$A {END} $B:1 {END}:1", special_tokens=[(END, 1)])
        return library
