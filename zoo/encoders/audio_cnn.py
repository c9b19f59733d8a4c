"""A small residual network over log-mel spectrograms (after Hershey et al., 2017, https://arxiv.org/abs/1609.09430).

Letters: B clips, M mel bands, T frames, N tokens, C channels, D width.
"""

from torch import Tensor, nn

from zoo.layers.conv import MaskedResidualBlock, zero_padding
from zoo.layers.norm import MaskedGroupNorm, groups_of
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, Layout, SpectrogramInput
from zoo.structs import Features


@ENCODERS.register("audio_cnn")
class AudioNetwork(nn.Module):
    """Convolutions over bands and frames, then the mean over bands: one token every 2 ** stages frames. Padding never changes a result.

    Args:
        spectrogram: filled from the data's spec.
        widths: channels of each stage; the last is the width of the features. Each stage halves bands and frames (rounded up).
        blocks: residual blocks of each stage; as many entries as widths.
        dropout: probability of leaving out an element inside each block.
    """

    repeats = ("blocks",)

    def __init__(
        self, *, spectrogram: SpectrogramInput, widths: tuple[int, ...] = (32, 64, 128), blocks: tuple[int, ...] = (1, 1, 1), dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(blocks) or min(*widths, *blocks) < 1:
            raise ValueError(f"widths={list(widths)} and blocks={list(blocks)} need one positive entry for each stage; give both the same number of entries")
        if spectrogram.n_mels < 1:
            raise ValueError(f"the spectrogram has {spectrogram.n_mels} mel bands; one at least is needed")
        self.stem = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.stem_norm = MaskedGroupNorm(groups_of(widths[0]), widths[0])
        self.blocks = nn.ModuleList()
        channels = widths[0]
        for width, count in zip(widths, blocks, strict=True):
            for number in range(count):
                self.blocks.append(MaskedResidualBlock(channels=channels, width=width, stride=2 if number == 0 else 1, dropout=dropout))
                channels = width
        self.output_spec = FeatureSpec(dim=widths[-1], layout=Layout.SEQUENCE)

    def forward(self, spectrogram: Tensor, mask: Tensor | None = None) -> Features:
        x = self.stem(zero_padding(spectrogram[:, None], mask))  # B C M T
        x = zero_padding(self.stem_norm(x, mask).relu(), mask)
        for block in self.blocks:
            x, mask = block(x, mask)
        return Features(tokens=x.mean(dim=2).transpose(1, 2), mask=mask)  # B N D
