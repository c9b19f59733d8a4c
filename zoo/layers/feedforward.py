"""The position-wise network of a Transformer block, and the activations that configs name.

Letters: D width, F hidden width.
"""

from enum import StrEnum

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.structs import Packing


class Activation(StrEnum):
    GELU = "gelu"
    RELU = "relu"
    SILU = "silu"
    SWIGLU = "swiglu"


_MODULES: dict[Activation, type[nn.Module]] = {Activation.GELU: nn.GELU, Activation.RELU: nn.ReLU, Activation.SILU: nn.SiLU}


def activation_module(kind: Activation) -> nn.Module:
    """The activation as a layer.

    Raises:
        ValueError: for gated ones, which are no function of one element.
    """
    if kind not in _MODULES:
        raise ValueError(f"activation={kind} is gated and only for Transformer blocks; choose {', '.join(_MODULES)}")
    return _MODULES[kind]()


class FeedForward(nn.Module):
    """Two linear layers with an activation between; three with SwiGLU (Shazeer, 2020, https://arxiv.org/abs/2002.05202).

    Args:
        dim: width D.
        hidden: width F between the layers.
        activation: between the layers.
        dropout: probability of leaving out a hidden element.
    """

    def __init__(self, *, dim: int, hidden: int, activation: Activation = Activation.GELU, dropout: float = 0.0) -> None:
        super().__init__()
        self.gated = activation is Activation.SWIGLU
        self.fc1 = nn.Linear(dim, 2 * hidden if self.gated else hidden)
        self.activation = nn.Identity() if self.gated else activation_module(activation)
        self.dropout = Dropout(dropout)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        hidden = self.fc1(x)
        if self.gated:
            gate, hidden = rearrange(hidden, "... (f two) -> two ... f", two=2)  # pairs stand together: a contiguous part of the matrix is whole
            hidden = F.silu(gate) * hidden
        return self.fc2(self.dropout(self.activation(hidden), packing))  # type: ignore[no-any-return]
