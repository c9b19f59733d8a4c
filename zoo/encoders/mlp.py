"""Multi-layer perceptron over any input of one fixed shape.

Letters: B items, C channels, H W pixels, K numbers, F flat elements, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation, activation_module
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout, TableInput
from zoo.structs import Features


@ENCODERS.register("mlp")
class MultiLayerPerceptron(nn.Module):
    """Linear layers with an activation after each, over flattened pixels, or over a table's numbers and one-hot categories.

    Args:
        input: filled from the data's spec.
        dims: width of each layer, first to last; at least one.
        activation: after each layer; gelu, relu or silu.
        dropout: probability of leaving out an element after each activation.
    """

    repeats = ()

    def __init__(
        self, *, input: ImageInput | TableInput, dims: tuple[int, ...] = (256, 128), activation: Activation = Activation.RELU, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not dims or min(dims) < 1:
            raise ValueError(f"dims={list(dims)} gives no widths; list one positive width for each layer, e.g. [256, 128]")
        self.categories = input.categories if isinstance(input, TableInput) else ()
        size = input.numbers + sum(self.categories) if isinstance(input, TableInput) else input.channels * input.height * input.width
        if size == 0:
            raise ValueError("the table has no columns: 0 numbers and 0 categories; name some in the data's options")
        layers: list[nn.Module] = []
        for before, width in zip((size, *dims[:-1]), dims, strict=True):
            layers += [nn.Linear(before, width), activation_module(activation), Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.output_spec = FeatureSpec(dim=dims[-1], layout=Layout.VECTOR, pooled=True)

    def forward(self, values: Tensor | dict[str, Tensor], mask: Tensor | None = None) -> Features:
        flat = self.flatten_table(values) if isinstance(values, dict) else values.flatten(1)  # B F
        return Features(pooled=self.layers(flat))  # B D

    def flatten_table(self, values: dict[str, Tensor]) -> Tensor:
        columns = [F.one_hot(values["categories"][:, place], size) for place, size in enumerate(self.categories)]
        return torch.cat((values["numbers"], *(column.to(values["numbers"].dtype) for column in columns)), dim=1)
