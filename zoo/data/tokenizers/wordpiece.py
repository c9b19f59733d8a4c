"""WordPiece (Schuster and Nakajima, 2012; as in BERT, Devlin et al., 2019, https://arxiv.org/abs/1810.04805)."""

from typing import TYPE_CHECKING, Any, ClassVar

from zoo.data.tokenizers import subword
from zoo.registry import TOKENIZERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@TOKENIZERS.register("wordpiece")
class WordPieceTokenizer(subword.SubwordTokenizer):
    """Words cut into known pieces, as BERT does it: `[CLS]` text `[SEP]`, 0 pads, 1 stands for what cannot be cut.

    Args:
        vocab_size: identifiers at most, the 5 special tokens included.
        lowercase: fold to lower case and strip accents first.
        min_frequency: occurrences of a pair in the training texts below which it is not merged.
        path: a `tokenizer.json` of the `tokenizers` library, its folder, or the name of a pretrained model, to load instead of training;
            it decides about everything above.
    """

    kind: ClassVar[str] = "wordpiece"

    def __init__(self, *, vocab_size: int = 8000, lowercase: bool = True, min_frequency: int = 2, path: str | None = None) -> None:
        if vocab_size < 100:
            raise ValueError(f"vocab_size={vocab_size}: the alphabet alone needs more; 100 or more")
        super().__init__(vocab_size=vocab_size, path=path)
        self.lowercase, self.min_frequency = lowercase, min_frequency

    @classmethod
    def of_vocabulary(
        cls, vocabulary: dict[str, int], *, lowercase: bool, strip_accents: bool | None = None, split_chinese: bool = True
    ) -> "WordPieceTokenizer":
        """With a vocabulary that another tokenizer of this kind was trained to: BERT's vocab.txt.

        Args:
            vocabulary: identifiers by token.
            lowercase: fold to lower case first.
            strip_accents: leave accents out; None does what ``lowercase`` says.
            split_chinese: each Chinese character is a word.
        """
        from tokenizers import normalizers

        tokenizer = cls(lowercase=lowercase)
        library = tokenizer._pipeline(vocabulary)
        library.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=split_chinese)
        tokenizer._use(library)
        return tokenizer

    def for_transformers(self) -> dict[str, Any]:
        """What its BertTokenizer, which does not look for it in tokenizer.json, has to be told."""
        from tokenizers import normalizers

        told: dict[str, Any] = {"mask_token": "[MASK]"} if self.library.token_to_id("[MASK]") is not None else {}
        if isinstance(norm := self.library.normalizer, normalizers.BertNormalizer):
            told |= {"do_lower_case": norm.lowercase, "strip_accents": norm.strip_accents, "tokenize_chinese_chars": norm.handle_chinese_chars}
        return told

    def _trained(self, texts: list[str]) -> "Library":
        from tokenizers import Tokenizer as Library
        from tokenizers import models, trainers

        draft = self._pipeline({})
        # The library numbers continuing letters ("##a") in the order of a hash map, which changes from run to run, and breaks ties between
        # merges by those numbers. Named as special tokens they get fixed numbers first; the vocabulary is then rebuilt without the mark.
        words = {word for text in texts for word, _ in draft.pre_tokenizer.pre_tokenize_str(draft.normalizer.normalize_str(text))}
        letters = sorted({letter for word in words for letter in word})
        continuing = sorted({f"##{letter}" for word in words for letter in word[1:]})
        draft.train_from_iterator(
            texts,
            trainers.WordPieceTrainer(
                vocab_size=max(self.vocab_size, len(SPECIAL) + len(letters) + len(continuing)),
                min_frequency=self.min_frequency,
                special_tokens=[*SPECIAL, *letters, *continuing],
                show_progress=False,
            ),
        )
        assert isinstance(draft.model, models.WordPiece)
        assert isinstance(draft, Library)
        vocabulary = sorted(draft.get_vocab().items(), key=lambda entry: entry[1])
        return self._pipeline({token: number for number, (token, _) in enumerate(vocabulary)})

    def _pipeline(self, vocabulary: dict[str, int]) -> "Library":
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

        library = Library(models.WordPiece(vocabulary, unk_token="[UNK]"))
        library.normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece()
        if vocabulary:
            library.add_special_tokens([token for token in SPECIAL if token in vocabulary])
            ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
            library.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends)
        return library
