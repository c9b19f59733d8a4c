"""Images as people have them: every mode of a file, odd and hostile ones, and what becomes of them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.codecs.image import Fit, ImageCodec
from zoo.errors import DataError
from zoo.structs import Values

RGB = ImageCodec(name="image", channels=3, size=(6, 6))
GREY = ImageCodec(name="image", channels=1, size=(6, 6))


def pixels(codec: ImageCodec, raw: object) -> torch.Tensor:
    return codec.encode(raw)["values"]


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (6, 6), colour)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 200, 30), (10, 200, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 200, 30, 255), (10, 200, 30)),
        ("RGBA", (10, 200, 30, 0), (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("I;16", 0x8000, (128, 128, 128)),
        ("I", 0x8000, (128, 128, 128)),
        ("F", 0.5, (128, 128, 128)),
    ],
)
def test_every_mode_becomes_eight_bit_rgb(mode: str, colour: object, expected: tuple[int, ...]) -> None:
    assert pixels(RGB, flat(mode, colour))[:, 0, 0].tolist() == list(expected)


def test_half_transparent_lies_on_white() -> None:
    assert abs(int(pixels(RGB, flat("RGBA", (0, 0, 0, 128)))[0, 0, 0]) - 127) <= 1


def test_a_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 200, 10, 10] + [0] * 750)
    assert pixels(RGB, image)[:, 0, 0].tolist() == [200, 10, 10]
    image.info["transparency"] = 1
    assert pixels(RGB, image)[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6) * 7)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transpose that puts an upright image into the stored position
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(pixels(GREY, tmp_path / "a.png"), pixels(GREY, upright))


def test_all_forms_of_the_same_image_agree(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    buffer = BytesIO()
    image.save(buffer, "PNG")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [image, array, tensor, tensor.float() / 255, tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue()]
    assert all(torch.equal(pixels(RGB, form), tensor) for form in forms)


def test_grey_is_pil_s_grey() -> None:
    array = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    assert torch.equal(pixels(GREY, array)[0], torch.from_numpy(np.array(Image.fromarray(array).convert("L"))))


@pytest.mark.parametrize("fit", list(Fit))
def test_any_proportions_give_the_size(fit: Fit) -> None:
    codec = ImageCodec(name="image", channels=3, size=(5, 9), fit=fit)
    for height, width in [(1, 1), (1, 200), (200, 1), (5, 9), (9, 5), (33, 17)]:
        assert pixels(codec, torch.full((3, height, width), 9, dtype=torch.uint8)).shape == (3, 5, 9)


def test_pad_keeps_the_whole_image_on_black() -> None:
    codec = ImageCodec(name="image", channels=1, size=(8, 8), fit=Fit.PAD)
    out = pixels(codec, torch.full((1, 4, 8), 200, dtype=torch.uint8))[0]
    assert out[2:6].eq(200).all()
    assert out[:2].eq(0).all()
    assert out[6:].eq(0).all()


def damaged(tmp_path: Path) -> list[object]:
    good = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(good, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(good.getvalue()[:400])
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (200_000).to_bytes(4) * 2 + b"\x08\x02\x00\x00\x00"  # forty thousand megapixels
    (tmp_path / "bomb.png").write_bytes(header + b"\x00" * 64)
    files = [tmp_path / name for name in ("cut.jpg", "text.png", "empty.png", "folder.png", "bomb.png", "absent.png")]
    arrays = [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 7), np.uint8),
        np.full((4, 4), np.nan, np.float32),
        np.full((4, 4), 2.0, np.float32),
        torch.zeros(4),
    ]
    return [*files, *arrays, np.zeros((4, 4), np.int64), None, 3, Image.fromarray(np.full((4, 4), -1, np.int32))]


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    for raw in damaged(tmp_path):
        with pytest.raises(DataError):
            pixels(RGB, raw)


def test_finish_normalises_on_the_scale_of_one() -> None:
    codec = ImageCodec(name="image", channels=3, size=(6, 6), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8)
    done = codec.finish(Values(images)).values
    expected = (images.double() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(done, expected.float(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("wrong", [{"channels": 2}, {"size": (0, 4)}, {"mean": (0.5, 0.5)}, {"std": (0.0,)}])
def test_options_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"channels|size|mean|std"):
        ImageCodec(**{"name": "image", "channels": 3, "size": (4, 4), **wrong})  # type: ignore[arg-type]
