"""Bag of words and word n-grams (Joulin et al., 2016, "Bag of Tricks for Efficient Text Classification", https://arxiv.org/abs/1607.01759).

Letters: B items, N positions, D width, H buckets.
"""

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.token import embedding
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout, TokenInput
from zoo.structs import Features

FACTOR = 116049371
"""Of fastText's hash of a word n-gram."""


@ENCODERS.register("bag")
class BagOfWords(nn.Module):
    """The mean of the vectors of an item's tokens and of its n-grams, which share hashed buckets. fastText's text classifier with a linear head.

    A position gives its token's vector and those of the n-grams that end there, summed. With ngrams=1 it is a table of word vectors.

    Args:
        tokens: filled from the data's spec.
        dim: width D of the vectors.
        ngrams: length of the longest n-gram; 1 takes tokens alone, 2 pairs of neighbours as well.
        buckets: rows H that n-grams are hashed to; those that meet in one share its vector.
        dropout: probability of leaving out an element of a position.
    """

    repeats = ()

    def __init__(self, *, tokens: TokenInput, dim: int = 100, ngrams: int = 2, buckets: int = 100_000, dropout: float = 0.0) -> None:
        super().__init__()
        if ngrams < 1:
            raise ValueError(f"ngrams={ngrams} leaves nothing to add up; choose 1 for tokens alone, or 2 or more")
        if buckets < 1:
            raise ValueError(f"buckets={buckets} gives n-grams no row; choose e.g. 100000, or ngrams=1 for none")
        self.ngrams, self.buckets = ngrams, buckets
        self.embedding = embedding(tokens, dim)
        self.grams = nn.Embedding(buckets, dim) if ngrams > 1 else None
        if self.grams is not None:
            nn.init.trunc_normal_(self.grams.weight, std=0.02)
        self.dropout = Dropout(dropout)
        self.output_spec = FeatureSpec(dim=dim, layout=Layout.SEQUENCE, causal=True, local=ngrams == 1, pooled=True)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Features:
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask  # B N
        x, count = self.embedding(tokens), real.sum(dim=1)  # B N D, B
        if self.grams is not None:
            for number, length in zip(gram_hashes(tokens, self.ngrams, self.buckets), range(2, self.ngrams + 1), strict=True):
                # Padding is behind the items, so that an n-gram is whole where its last token is real.
                whole = real[:, length - 1 :]
                grams = torch.where(whole[..., None], self.grams(number), 0.0)  # B N-length+1 D
                x = x + nn.functional.pad(grams, (0, 0, min(length - 1, tokens.shape[1]), 0))
                count = count + whole.sum(dim=1)
        x = self.dropout(x)
        x = torch.where(real[..., None], x, x.new_zeros(()))
        return Features(tokens=x, mask=mask, pooled=x.sum(dim=1) / count.clamp_min(1)[:, None].to(x.dtype))


def gram_hashes(tokens: Tensor, longest: int, buckets: int) -> list[Tensor]:
    """The buckets of all n-grams of 2, 3 ... ``longest`` tokens, each in the order of its last token: B N-1, B N-2 ...

    fastText's recurrence h <- 116049371 h + word, modulo 2^64, then modulo the buckets (``Dictionary::addWordNgrams``), with a token's identifier in
    the place of its word's hash.
    """
    hashes, found = tokens, []
    for _ in range(2, longest + 1):
        hashes = hashes[:, :-1] * FACTOR + tokens[:, tokens.shape[1] - hashes.shape[1] + 1 :]
        # int64 wraps around as the unsigned type does, but is read as negative in the upper half: that is 2^64 too little.
        found.append((hashes % buckets + torch.where(hashes < 0, 2**64 % buckets, 0)) % buckets)
    return found
