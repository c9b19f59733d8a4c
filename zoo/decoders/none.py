"""No decoder: the head gets what the encoder gives."""

from torch import nn

from zoo.registry import DECODERS
from zoo.specs import FeatureSpec
from zoo.structs import Features


@DECODERS.register("none")
class NoDecoder(nn.Module):
    """Hands the encoder's features to the head as they are.

    Args:
        features: filled from the encoder's output.
    """

    repeats = ()

    def __init__(self, *, features: FeatureSpec) -> None:
        super().__init__()
        self.output_spec = features

    def forward(self, features: Features) -> Features:
        return features
