"""Bags of n-grams and convolutions over texts against the formulas of their papers, an item at a time."""

import pytest
import torch
from torch import Tensor

from zoo.encoders.bag import BagOfWords, gram_hashes
from zoo.encoders.text_cnn import TextConvolutions
from zoo.specs import TextInput

VOCABULARY = 30_000
TOKENS = TextInput(name="text", vocab_size=VOCABULARY, max_length=12)
LENGTHS = [7, 12, 1, 4, 2]


def items() -> tuple[Tensor, Tensor]:
    mask = torch.arange(12) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(1)).masked_fill(~mask, 0), mask


def fasttext_buckets(words: list[int], longest: int, buckets: int) -> list[int]:
    """``Dictionary::addWordNgrams`` of fastText's dictionary.cc, whose uint64_t wraps around, over identifiers."""
    found = []
    for first in range(len(words)):
        h = words[first]
        for place in range(first + 1, min(len(words), first + longest)):
            h = (h * 116049371 + words[place]) % 2**64
            found.append(h % buckets)
    return found


@pytest.mark.parametrize("longest", [1, 2, 5])
def test_bag_is_fasttexts_mean(longest: int) -> None:
    """Words and n-grams are averaged, each once (Joulin et al., 2016; fastText's ``Model::computeHidden``)."""
    torch.manual_seed(0)
    encoder = BagOfWords(tokens=TOKENS, dim=6, ngrams=longest, buckets=1000).double()
    tokens, mask = items()
    found = encoder(tokens, mask)
    for row, length in enumerate(LENGTHS):
        words = tokens[row, :length].tolist()
        vectors = [encoder.embedding.weight[word] for word in words]
        vectors += [encoder.grams.weight[bucket] for bucket in fasttext_buckets(words, longest, 1000)] if encoder.grams is not None else []
        assert len(vectors) == sum(max(0, length - before) for before in range(longest))
        torch.testing.assert_close(found.pooled[row], torch.stack(vectors).mean(dim=0), rtol=1e-12, atol=1e-14)


def test_hashes_wrap_around_as_unsigned_numbers_do() -> None:
    words = torch.randint(1, VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(2))
    hashes = [number for row in gram_hashes(words, 5, 2_000_003) for number in row[0].tolist()]
    assert sorted(hashes) == sorted(fasttext_buckets(words[0].tolist(), 5, 2_000_003))


def test_text_cnn_is_kims_formula() -> None:
    """c_i = f(w . x_{i:i+h-1} + b) over every window of an item between zeros, and the highest of each filter (Kim, 2014, equations 2 to 4)."""
    torch.manual_seed(0)
    encoder = TextConvolutions(tokens=TOKENS, dim=5, widths=(2, 3, 5), channels=4, dropout=0.0).double()
    tokens, mask = items()
    found = encoder(tokens, mask)
    for row, length in enumerate(LENGTHS):
        words, highest, centred = encoder.embedding(tokens[row, :length]), [], []
        for convolution in encoder.convolutions:
            width = convolution.kernel_size[0]
            zeros = words.new_zeros(width - 1, 5)
            windows = torch.cat([zeros, words, zeros]).unfold(0, width, 1)  # windows D width
            answers = (torch.einsum("ndw,cdw->nc", windows, convolution.weight) + convolution.bias).clamp(min=0)
            highest.append(answers.amax(dim=0))
            centred.append(answers[(width - 1) // 2 :][:length])
        torch.testing.assert_close(found.pooled[row], torch.cat(highest), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.tokens[row, :length], torch.cat(centred, dim=1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BagOfWords(tokens=TOKENS, ngrams=0), "choose 1 for tokens alone"),
        (lambda: BagOfWords(tokens=TOKENS, buckets=0), "ngrams=1 for none"),
        (lambda: TextConvolutions(tokens=TOKENS, widths=(3, 3)), r"widths=\[3, 3\] has to list different positive widths"),
        (lambda: TextConvolutions(tokens=TOKENS, channels=0), "gives no filters"),
    ],
)
def test_refusals(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
