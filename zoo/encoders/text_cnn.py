"""Convolutions over identifiers (Kim, 2014, "Convolutional Neural Networks for Sentence Classification", https://arxiv.org/abs/1408.5882).

Letters: B items, N positions, D width of an identifier, C channels of a width, W widths.
"""

import torch
from torch import Tensor, nn

from zoo.layers.dropout import Dropout
from zoo.layers.feedforward import Activation, activation_module
from zoo.layers.token import embedding
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout, TokenInput
from zoo.structs import Features


@ENCODERS.register("text_cnn")
class TextConvolutions(nn.Module):
    """Filters of several widths over embedded identifiers, each reduced to its highest answer in the item.

    As in the paper's code an item stands between zeros, so that a filter sees parts of its width at both ends, and items shorter than it. A filter that
    sees padding alone has no say. Tokens are the answers of the filters centred on a position.

    Args:
        tokens: filled from the data's spec.
        dim: width D of an embedded identifier.
        widths: of the filters, in identifiers; all different.
        channels: filters C of each width.
        activation: of a filter's answer; relu, gelu or silu.
        dropout: probability of leaving out an element of the embedded identifiers.
    """

    repeats = ()

    def __init__(
        self,
        *,
        tokens: TokenInput,
        dim: int = 128,
        widths: tuple[int, ...] = (3, 4, 5),
        channels: int = 100,
        activation: Activation = Activation.RELU,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or len(set(widths)) < len(widths):
            raise ValueError(f"widths={list(widths)} has to list different positive widths; choose e.g. [3, 4, 5]")
        if channels < 1:
            raise ValueError(f"channels={channels} gives no filters; choose e.g. 100")
        self.embedding = embedding(tokens, dim)
        self.dropout = Dropout(dropout)
        self.widths = tuple(widths)
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, channels, width, padding=width - 1) for width in widths)
        self.activation = activation_module(activation)
        self.output_spec = FeatureSpec(dim=channels * len(widths), layout=Layout.SEQUENCE, pooled=True)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Features:
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask  # B N
        x = self.dropout(self.embedding(tokens))
        x = torch.where(real[..., None], x, x.new_zeros(())).transpose(1, 2)  # B D N
        each, highest = [], []
        for convolution, width in zip(self.convolutions, self.widths, strict=True):
            around = width - 1
            y = self.activation(convolution(x))  # B C N+around: place t sees positions t - around .. t
            seen = nn.functional.pad(real, (around, 0), value=True)  # padding is behind an item, which has one position at least
            highest.append(y.masked_fill(~seen[:, None], torch.finfo(y.dtype).min).amax(dim=2))
            each.append(y[..., around // 2 : around // 2 + tokens.shape[1]])
        positions = torch.cat(each, dim=1).transpose(1, 2)  # B N WC
        return Features(tokens=torch.where(real[..., None], positions, positions.new_zeros(())), mask=mask, pooled=torch.cat(highest, dim=1))
