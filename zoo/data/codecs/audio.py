"""Sound -> log-mel spectrogram. Files are read with soundfile; resampling and filters are torchaudio's.

Letters: B batch, S samples of a waveform, M mel channels, T frames.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.base import Encoded
from zoo.data.codecs.fitting import usable
from zoo.data.codecs.state import strict
from zoo.data.suffixes import SOUNDS
from zoo.errors import DataError
from zoo.specs import SpectrogramInput
from zoo.structs import Values

FLOOR = 1e-10
"""Power below which the logarithm is cut: -100 dB of full scale."""


class AudioCodec:
    """Read, mix to mono, resample, cut to length, and take the natural logarithm of mel power; standardise with figures of the training split.

    Args:
        name: of the input.
        sample_rate: in hertz, that sound is resampled to.
        n_mels: mel channels M between 0 Hz and half the sample rate (HTK's scale, unit-peak triangles).
        max_seconds: of a clip; what follows is cut off.
        window_ms: length of a frame's Hann window, in milliseconds; the FFT has the next power of two.
        hop_ms: between frames.
        mean: of log-mel over the training split.
        std: likewise.
    """

    kind: ClassVar[str] = "audio"
    suffixes: ClassVar[tuple[str, ...]] = SOUNDS
    ragged: ClassVar[str | None] = "frames"
    pad: int = 0

    def __init__(
        self,
        *,
        name: str,
        sample_rate: int,
        n_mels: int,
        max_seconds: float,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        if sample_rate < 1000 or n_mels < 1:
            raise ValueError(f"sample_rate={sample_rate} hertz from 1000, n_mels={n_mels} from 1")
        if not (window_ms >= hop_ms > 0) or max_seconds * 1000 < hop_ms or std <= 0:
            raise ValueError(f"window_ms={window_ms} has to be at least hop_ms={hop_ms}, above 0, and max_seconds={max_seconds} longer than a hop")
        self.name, self.sample_rate, self.n_mels, self.max_seconds = name, sample_rate, n_mels, max_seconds
        self.window_ms, self.hop_ms, self.mean, self.std = window_ms, hop_ms, mean, std
        self.window, self.hop = round(sample_rate * window_ms / 1000), max(1, round(sample_rate * hop_ms / 1000))
        self.n_fft = 1 << (self.window - 1).bit_length()
        if n_mels > self.n_fft // 4:
            raise ValueError(f"n_mels={n_mels} are too many for {self.n_fft // 2 + 1} frequencies; at most {self.n_fft // 4}, or a longer window_ms")
        self.spec = SpectrogramInput(name=name, n_mels=n_mels, max_frames=1 + self.max_samples // self.hop, frame_rate=sample_rate / self.hop)

    @property
    def max_samples(self) -> int:
        return round(self.max_seconds * self.sample_rate)

    def fit(self, raws: Iterable[Any]) -> None:
        """Mean and standard deviation over all frames and channels of some training clips; clips that cannot be read are left out."""
        count, total, squares = 0, 0.0, 0.0
        for encoded in usable(self.encode, raws):
            values = encoded["values"].to(torch.float64)
            count, total, squares = count + values.numel(), total + float(values.sum()), squares + float(values.square().sum())
        if count:
            self.mean = total / count
            self.std = math.sqrt(max(squares / count - self.mean**2, 0.0)) or 1.0

    def encode(self, raw: Any) -> Encoded:
        """A path, a file's bytes, or (waveform, sample rate) with a waveform of S or channels S -> M T."""
        return {"values": self.log_mel(self.waveform(raw))}

    def waveform(self, raw: Any) -> Tensor:
        """S float32, mono, at the codec's rate, no longer than ``max_seconds``."""
        if isinstance(raw, str | Path | bytes):
            samples, rate = read_sound(raw, self.max_seconds)
        elif isinstance(raw, tuple | list) and len(raw) == 2:
            samples, rate = _samples(raw[0]), raw[1]
        else:
            raise DataError(f"a sound is a file's path or (waveform, sample rate), not {type(raw).__name__}")
        if not isinstance(rate, int) or rate < 1:
            raise DataError(f"sample rate {rate!r} is not a positive integer")
        samples = samples[:, : math.ceil(self.max_seconds * rate)].mean(0)  # S
        if not samples.numel():
            raise DataError("the sound is empty")
        if not bool(torch.isfinite(samples).all()):
            raise DataError("the sound holds values that are not finite")
        if rate != self.sample_rate:
            from torchaudio.functional import resample  # a second to import, which other data should not pay

            samples = resample(samples, rate, self.sample_rate)
        mono: Tensor = samples[: self.max_samples]
        return mono

    def log_mel(self, waveform: Tensor) -> Tensor:
        """S -> M T."""
        spectrum = torch.stft(
            waveform, self.n_fft, hop_length=self.hop, win_length=self.window, window=self._window, center=True, pad_mode="constant", return_complex=True
        )  # F T
        power = spectrum.abs().square()
        mel: Tensor = self._filters.T @ power
        return mel.clamp_(min=FLOOR).log_()

    @cached_property
    def _window(self) -> Tensor:
        return torch.hann_window(self.window)

    @cached_property
    def _filters(self) -> Tensor:
        from torchaudio.functional import melscale_fbanks

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of channels between two frequencies of the FFT, which are answered below
            filters: Tensor = melscale_fbanks(self.n_fft // 2 + 1, 0.0, self.sample_rate / 2, self.n_mels, self.sample_rate)  # F M
        empty = (filters.max(0).values == 0).sum()
        if empty:
            raise DataError(
                f"data.n_mels={self.n_mels}: {empty} channels fall between two of {self.n_fft // 2 + 1} frequencies; take fewer, or a longer data.window_ms"
            )
        return filters

    def finish(self, values: Values) -> Values:
        assert isinstance(values.values, Tensor)
        scaled = values.values.sub(self.mean).mul_(1 / self.std)  # B M T
        return Values(scaled if values.mask is None else scaled.masked_fill_(~values.mask[:, None], 0.0), values.mask)

    def state(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("sample_rate", "n_mels", "max_seconds", "window_ms", "hop_ms", "mean", "std")}

    def save_files(self, folder: Path) -> None:
        pass

    @classmethod
    def from_state(cls, name: str, state: Mapping[str, Any], folder: Path) -> "AudioCodec":  # noqa: ARG003
        figure = (int, float)
        values = strict(state, name, sample_rate=int, n_mels=int, max_seconds=figure, window_ms=figure, hop_ms=figure, mean=figure, std=figure)
        return cls(name=name, **values)


def read_sound(source: str | Path | bytes, max_seconds: float) -> tuple[Tensor, int]:
    """Channels S float32 in -1 .. 1, and the file's sample rate."""
    import soundfile

    if not isinstance(source, bytes) and not Path(source).is_file():
        raise DataError(f"no sound file at {source}")
    try:
        with soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source) as file:
            samples = file.read(frames=min(file.frames, math.ceil(max_seconds * file.samplerate)), dtype="float32", always_2d=True)
            return torch.from_numpy(samples.T.copy()), int(file.samplerate)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot be decoded as sound: {error}") from error


def _samples(waveform: Any) -> Tensor:
    if isinstance(waveform, np.ndarray):
        waveform = torch.from_numpy(np.ascontiguousarray(waveform))
    if not isinstance(waveform, Tensor) or waveform.dim() not in (1, 2):
        raise DataError("a waveform is an array or tensor of samples, or of channels by samples")
    if not waveform.is_floating_point():
        if waveform.dtype not in (torch.int16, torch.int32):
            raise DataError(f"a waveform of type {waveform.dtype}: expected floats in -1 .. 1, int16 or int32")
        waveform = waveform.to(torch.float32) / (1 << (15 if waveform.dtype is torch.int16 else 31))
    samples: Tensor = waveform.to(torch.float32).reshape(-1, waveform.shape[-1])  # channels S
    return samples
