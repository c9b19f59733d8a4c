"""Data preparation against other implementations: torchvision's v2 functions, torchaudio's log-mel, the `tokenizers` library, pandas."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Library
from torchaudio.transforms import MelSpectrogram
from torchvision.transforms.v2 import functional as tv

from zoo.data.codecs.audio import AudioCodec
from zoo.data.codecs.image import Fit, ImageCodec
from zoo.data.codecs.table import TableCodec
from zoo.data.tokenizers.bpe import BpeTokenizer
from zoo.data.tokenizers.wordpiece import WordPieceTokenizer
from zoo.data.transforms.colour import ColorJitter, affine
from zoo.data.transforms.crop import Border, erase, shift
from zoo.random import SampleRandom
from zoo.structs import Values

SHAPES = [(28, 28), (40, 30), (30, 40), (101, 64), (7, 9), (16, 333)]


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (channels, height, width), dtype=np.uint8))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [8, 28, 64])
def test_resize_and_crop_are_torchvision_s(shape: tuple[int, int], side: int) -> None:
    image = picture(*shape)
    expected = tv.center_crop(tv.resize(image, [side], antialias=True), [side, side])
    assert torch.equal(ImageCodec(name="image", channels=3, size=(side, side)).encode(image)["values"], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_stretch_is_torchvision_s(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    codec = ImageCodec(name="image", channels=3, size=(20, 12), fit=Fit.STRETCH)
    assert torch.equal(codec.encode(image)["values"], tv.resize(image, [20, 12], antialias=True))


def test_normalisation_is_torchvision_s() -> None:
    images = torch.stack([picture(9, 9, seed=seed) for seed in range(4)])
    codec = ImageCodec(name="image", channels=3, size=(9, 9), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = tv.normalize(tv.to_dtype(images, torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(codec.finish(Values(images)).values, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("border", "mode"), [(Border.ZERO, "constant"), (Border.REFLECT, "reflect"), (Border.EDGE, "edge")])
def test_crops_are_torchvision_s(border: Border, mode: str) -> None:
    images = torch.stack([picture(10, 12, seed=seed) for seed in range(20)])
    top, left = torch.arange(20) % 7, torch.arange(20) * 3 % 7
    expected = [tv.crop(tv.pad(image, [3] * 4, padding_mode=mode), int(row), int(column), 10, 12) for image, row, column in zip(images, top, left, strict=True)]
    assert torch.equal(shift(images, top, left, 3, border), torch.stack(expected))


def test_erasing_is_torchvision_s() -> None:
    images = torch.stack([picture(10, 12, seed=seed) for seed in range(9)])
    corner = torch.arange(9)
    done = erase(images, corner.float(), corner.float() / 2 // 1, torch.full((9,), 3.0), torch.full((9,), 5.0), 128)
    for number, image in enumerate(images):
        tall, wide = min(3, 10 - number), min(5, 12 - number // 2)
        expected = tv.erase(image, number, number // 2, tall, wide, torch.full((3, tall, wide), 128, dtype=torch.uint8))
        assert torch.equal(done[number], expected)


@pytest.mark.parametrize(
    ("degrees", "translate", "scale", "shear"), [(30, (0, 0), 1.0, 0), (-90, (0, 0), 1.0, 0), (0, (3, -2), 1.0, 0), (15, (2, 1), 1.2, 0), (0, (0, 0), 0.8, 20)]
)
def test_affine_changes_are_torchvision_s(degrees: float, translate: tuple[int, int], scale: float, shear: float) -> None:
    image = tv.gaussian_blur(picture(20, 20), [5, 5])[None]
    expected = tv.affine(image, -degrees, list(translate), scale, [shear, 0.0], interpolation=tv.InterpolationMode.BILINEAR)
    radians = torch.deg2rad(torch.tensor([float(degrees)]))
    done = affine(image, radians, torch.tensor([translate]) / 20, torch.tensor([scale]), torch.deg2rad(torch.tensor([float(-shear)])))
    assert (done.int() - expected.int()).abs().max() <= 1


def test_colour_changes_are_torchvision_s() -> None:
    images = torch.stack([picture(6, 6, seed=seed) for seed in range(8)])
    random = SampleRandom(1, 0, torch.arange(8))
    done = ColorJitter(brightness=0.5, contrast=0.6, saturation=0.7)(Values(images), random).values
    factors = 1 + (random.uniform("color_jitter", 3) * 2 - 1) * torch.tensor([0.5, 0.6, 0.7])
    for number, image in enumerate(images):
        brightness, contrast, saturation = factors[number].tolist()
        step = tv.adjust_contrast(tv.adjust_brightness(image.float() / 255, brightness), contrast)
        expected = tv.adjust_saturation(step, saturation) * 255
        assert isinstance(done, torch.Tensor)
        assert (done[number].float() - expected).abs().max() <= 0.51


@pytest.mark.parametrize(("rate", "mels"), [(8000, 40), (16000, 64), (22050, 64), (44100, 80)])
def test_log_mel_is_torchaudio_s(rate: int, mels: int) -> None:
    wave = torch.from_numpy(np.random.default_rng(0).normal(size=rate // 2).astype(np.float32)) * 0.1
    codec = AudioCodec(name="audio", sample_rate=rate, n_mels=mels, max_seconds=4.0)
    reference = MelSpectrogram(rate, n_fft=codec.n_fft, win_length=codec.window, hop_length=codec.hop, n_mels=mels, pad_mode="constant")
    torch.testing.assert_close(codec.log_mel(wave), reference(wave).clamp(min=1e-10).log(), atol=1e-5, rtol=1e-5)


def test_saved_tokenizers_are_the_library_s(tmp_path: Path) -> None:
    texts = ["The quick brown fox, jumps over the lazy dog!", "naïve café 日本", "a b c"] * 4
    for tokenizer in (BpeTokenizer(vocab_size=300), WordPieceTokenizer(vocab_size=120)):
        tokenizer.train(texts)
        tokenizer.save(tmp_path / tokenizer.kind)
        library = Library.from_file(str(tmp_path / tokenizer.kind / "tokenizer.json"))
        for text in [*texts, "unknown wörds ☃"]:
            assert tokenizer.encode(text) == library.encode(text).ids
            library.enable_truncation(6)
            assert tokenizer.encode(text, 6) == library.encode(text).ids
            library.no_truncation()


def test_wordpiece_training_reaches_the_library_s_vocabulary() -> None:
    """Numbers differ from run to run there; the set of pieces must not differ from ours where no ties are broken."""
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    texts = ["low lower lowest new newer newest wide wider widest"] * 7
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    library.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=1000, min_frequency=2, special_tokens=special, show_progress=False))
    ours = WordPieceTokenizer(vocab_size=1000)
    ours.train(texts)
    words = {"low", "lower", "lowest", "new", "newer", "newest", "wide", "wider", "widest"}
    assert words <= set(library.get_vocab()) & set(ours.library.get_vocab())


def test_standardised_numbers_are_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs the extra tables: pip install 'zoo-ml[tables]'")
    table = np.random.default_rng(0).normal(5, 3, (50, 2))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *table.tolist()])
    frame = pandas.read_csv(tmp_path / "a.csv")
    codec = TableCodec(name="table", numbers=["x", "y"], categories=[])
    codec.fit(frame.to_dict("records"))
    expected = ((frame - frame.mean()) / frame.std(ddof=0)).to_numpy()
    ours = torch.stack([codec.encode(row)["numbers"] for row in frame.to_dict("records")])
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)
