"""The position-wise network of a Transformer block, and the activations that configs name.

Letters: D width, F hidden width.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial

from einops import rearrange
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.structs import Packing


class Activation(StrEnum):
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"  # its approximation by a tanh, as in GPT-2
    RELU = "relu"
    SILU = "silu"
    SWIGLU = "swiglu"
    GEGLU = "geglu"
    GEGLU_TANH = "geglu_tanh"


_MODULES: dict[Activation, Callable[[], nn.Module]] = {
    Activation.GELU: nn.GELU,
    Activation.GELU_TANH: partial(nn.GELU, approximate="tanh"),
    Activation.RELU: nn.ReLU,
    Activation.SILU: nn.SiLU,
}
GATED = {Activation.SWIGLU: Activation.SILU, Activation.GEGLU: Activation.GELU, Activation.GEGLU_TANH: Activation.GELU_TANH}
"""Kinds with a gate, and the activation on it."""


def activation_module(kind: Activation) -> nn.Module:
    """The activation as a layer.

    Raises:
        ValueError: for gated ones, which are no function of one element.
    """
    if kind not in _MODULES:
        raise ValueError(f"activation={kind} is gated and only for Transformer blocks; choose {', '.join(_MODULES)}")
    return _MODULES[kind]()


class FeedForward(nn.Module):
    """Two linear layers with an activation between; with a gate, where another layer's activation multiplies the hidden elements (Shazeer, 2020,
    https://arxiv.org/abs/2002.05202), three.

    Args:
        dim: width D.
        hidden: width F between the layers.
        activation: between the layers.
        dropout: probability of leaving out a hidden element.
        bias: of the linear layers.
    """

    def __init__(self, *, dim: int, hidden: int, activation: Activation = Activation.GELU, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.gated = activation in GATED
        self.fc1 = nn.Linear(dim, 2 * hidden if self.gated else hidden, bias=bias)
        self.activation = activation_module(GATED.get(activation, activation))
        self.dropout = Dropout(dropout)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        hidden = self.fc1(x)
        if self.gated:
            gate, hidden = rearrange(hidden, "... (f two) -> two ... f", two=2)  # pairs stand together: a contiguous part of the matrix is whole
            hidden = self.activation(gate) * hidden
        else:
            hidden = self.activation(hidden)
        return self.fc2(self.dropout(hidden, packing))  # type: ignore[no-any-return]
