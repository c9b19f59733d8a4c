"""Unigram language model over pieces (Kudo, 2018, https://arxiv.org/abs/1804.10959), as SentencePiece has it and T5 uses it."""

from typing import TYPE_CHECKING, ClassVar

from zoo.data.tokenizers import subword
from zoo.errors import DataError, ZooError
from zoo.registry import TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
BYTES = frozenset(f"<0x{number:02X}>" for number in range(256))


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
        from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
        from tokenizers import Tokenizer as Library

        folded = [normalizers.Lowercase()] if self.lowercase else []
        normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), *folded])
        library = Library(models.Unigram(pieces([normalizer.normalize_str(text) for text in texts], self.vocab_size), unk_id=2, byte_fallback=True))
        library.normalizer, library.pre_tokenizer = normalizer, pre_tokenizers.Metaspace()
        library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        library.add_special_tokens([PAD, END, UNKNOWN])
        library.post_processor = processors.TemplateProcessing(single=f"$A {END}", pair=f"$A {END} $B:1 {END}:1", special_tokens=[(END, 1)])
        return library


def pieces(texts: list[str], size: int) -> list[tuple[str, float]]:
    """Pieces with the logarithms of their probabilities: padding, what closes a text, what is unknown, the bytes, then the likeliest first.

    SentencePiece itself finds them: the `tokenizers` library's own trainer gives other scores in every process.

    Args:
        texts: normalised.
        size: of the vocabulary, at most.

    Raises:
        ZooError: without sentencepiece.
    """
    import io
    from collections import Counter

    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as proto
    except ModuleNotFoundError as error:
        raise ZooError("a unigram tokenizer is trained by sentencepiece, which is not installed\n  way out: pip install 'zoo-ml[unigram]'") from error
    letters = Counter(letter for text in texts for letter in text)
    often = {letter for letter, _ in letters.most_common(max(1, (size - len(BYTES)) // 2))}
    rare = str.maketrans(dict.fromkeys(set(letters) - often, " "))  # of a large alphabet the rest is written by bytes
    trained = io.BytesIO()
    lines = [line for text in texts for line in text.translate(rare).splitlines() if line.strip()]
    if not lines:
        raise DataError("a unigram tokenizer cannot be trained: the training split holds no text")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=trained,
        model_type="unigram",
        vocab_size=size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        max_sentence_length=1 << 20,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece=PAD,
        eos_piece=END,
        unk_piece=UNKNOWN,
        minloglevel=2,
    )
    model = proto.ModelProto()
    model.ParseFromString(trained.getvalue())
    found = [(piece.piece, piece.score) for piece in model.pieces]
    lowest = min((score for _, score in found), default=0.0) - 10  # below every piece: bytes only where nothing else is
    return [(piece, lowest if piece in BYTES else score) for piece, score in found]
