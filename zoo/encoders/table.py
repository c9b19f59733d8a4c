"""Tables: numbers and embedded categories through a small network (Guo and Berkhahn, 2016, https://arxiv.org/abs/1604.06737).

Letters: B rows, K numbers, C categories, D width.
"""

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation, activation_module
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout, TableInput
from zoo.structs import Features


@ENCODERS.register("table")
class TableNetwork(nn.Module):
    """Standardised numbers beside an embedding of each category, then linear layers with an activation after each.

    Args:
        table: filled from the data's spec.
        dims: width of each layer, first to last; at least one.
        embedding_dim: width of a category's embedding; null takes half the category's identifiers, 2 at least and 32 at most.
        activation: after each layer; relu, gelu or silu.
        dropout: probability of leaving out an element after each activation.
    """

    repeats = ()

    def __init__(
        self,
        *,
        table: TableInput,
        dims: tuple[int, ...] = (128, 64),
        embedding_dim: int | None = None,
        activation: Activation = Activation.RELU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not dims or min(dims) < 1:
            raise ValueError(f"dims={list(dims)} gives no widths; list one positive width for each layer, e.g. [128, 64]")
        if embedding_dim is not None and embedding_dim < 1:
            raise ValueError(f"embedding_dim={embedding_dim} is no width; choose 1 or more, or null for one by the category's size")
        if table.numbers == 0 and not table.categories:
            raise ValueError("the table has no columns: 0 numbers and 0 categories; name some in the data's options")
        widths = [embedding_dim or min(32, max(2, size // 2)) for size in table.categories]
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size, width in zip(table.categories, widths, strict=True))
        layers: list[nn.Module] = []
        for before, width in zip((table.numbers + sum(widths), *dims[:-1]), dims, strict=True):
            layers += [nn.Linear(before, width), activation_module(activation), Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.output_spec = FeatureSpec(dim=dims[-1], layout=Layout.VECTOR, pooled=True)

    def forward(self, table: dict[str, Tensor], mask: Tensor | None = None) -> Features:
        embedded = [embedding(table["categories"][:, place]) for place, embedding in enumerate(self.embeddings)]
        return Features(pooled=self.layers(torch.cat((table["numbers"], *embedded), dim=1)))  # B D
