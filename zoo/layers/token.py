"""Embeddings of identifiers.

Letters: V identifiers, D width.
"""

import torch
from torch import nn

from zoo.specs import TokenInput


def embedding(tokens: TokenInput, dim: int, extra_rows: int = 0) -> nn.Embedding:
    """V D, and ``extra_rows`` more: a vector for each identifier, standard deviation .02; padding's is and stays zero."""
    table = nn.Embedding(tokens.vocab_size + extra_rows, dim, padding_idx=tokens.pad_id)
    nn.init.trunc_normal_(table.weight, std=0.02)
    with torch.no_grad():
        table.weight[tokens.pad_id].zero_()
    return table
