"""``zoo.create``: models of any kind of data, and what it says where a spec is needed or does not fit."""

from typing import Any

import pytest

import zoo
from zoo.data.fake import fake_batch
from zoo.errors import ZooError
from zoo.specs import ClassTarget, DataSpec, HistoryInput, ImageInput, ItemTarget, NumberTarget, SpectrogramInput, TableInput, TextInput

LABEL, STARS = ClassTarget(name="label", labels=("no", "yes", "so so")), NumberTarget(name="stars", columns=("stars",), mean=(3.0,), std=(1.0,))
IMAGE, TEXT = ImageInput(name="image", channels=3, height=16, width=16), TextInput(name="text", vocab_size=50, max_length=9)
HISTORY, ITEM = HistoryInput(name="history", vocab_size=31, max_length=8), ItemTarget(name="next", num_items=30)
SOUND = SpectrogramInput(name="audio", n_mels=20, max_frames=40, frame_rate=100.0)


def of(*parts: Any) -> DataSpec:
    return DataSpec(inputs=tuple(part for part in parts if hasattr(part, "optional")), targets=tuple(part for part in parts if not hasattr(part, "optional")))


@pytest.mark.parametrize(
    ("name", "spec", "options", "head", "shape"),
    [
        ("vit_tiny", of(IMAGE, LABEL), {}, "ClassificationHead", (4, 3)),
        ("lstm_tiny", of(TEXT, LABEL), {}, "ClassificationHead", (4, 3)),
        ("lstm", of(TEXT, STARS), {"dim": 16}, "RegressionHead", (4, 1)),
        ("audio_cnn_tiny", of(SOUND, LABEL), {"head": {"name": "classification", "dropout": 0.5}}, "ClassificationHead", (4, 3)),
        ("table_tiny", of(TableInput(name="table", numbers=2), STARS), {"decoder": "none"}, "RegressionHead", (4, 1)),
        ("transformer_tiny", of(HISTORY, ITEM), {"attention": "causal", "head": "next_item_tiny"}, "NextItemHead", None),
        ("fusion_tiny", of(IMAGE, TEXT, LABEL), {"combine": "tokens", "depth": 1}, "ClassificationHead", (4, 3)),
        ("lstm_tiny", of(TEXT, LABEL, STARS), {"target": "stars"}, "RegressionHead", (4, 1)),
        ("lstm_tiny", of(TEXT, TextInput(name="title", vocab_size=9, max_length=5), LABEL), {"input": "title"}, "ClassificationHead", (4, 3)),
    ],
)
def test_any_modality(name: str, spec: DataSpec, options: dict[str, Any], head: str, shape: tuple[int, ...] | None) -> None:
    model = zoo.create(name, spec=spec, **options)
    assert type(model.head).__name__ == head
    prediction = model.eval()(fake_batch(spec, 4).inputs)
    assert shape is None or shape in [tuple(value.shape) for value in prediction.values()]


def test_images_need_no_spec() -> None:
    import torch

    model = zoo.create("cnn_tiny", num_classes=7, image_size=20, channels=1, widths=[8, 8])
    assert model.encoder(torch.zeros(2, 1, 20, 20)).maps[-1].shape == (2, 8, 10, 10)
    assert model.head.classifier.out_features == 7  # type: ignore[union-attr]
    assert zoo.create("vit_tiny").head.classifier.out_features == 10  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lstm_tiny", {}, r"encoder 'lstm' takes TokenInput, and what its data is, only a spec tells\n.*way out 1: zoo\.create\('lstm_tiny', spec=DataSpec"),
        ("fusion_tiny", {"num_classes": 3}, "is made of encoders"),
        ("cnn_tiny", {"spec": of(IMAGE, LABEL), "num_classes": 3}, "spec and num_classes=3 say the same thing twice"),
        ("lstm_tiny", {"spec": of(TEXT, LABEL, STARS)}, r"heads that fit label \(class\), stars \(number\): classification, regression\n.*head=NAME"),
        ("lstm_tiny", {"spec": of(TEXT, LABEL), "target": "stars"}, "no target named 'stars'; it has label"),
        ("lstm_tiny", {"spec": of(TEXT, LABEL), "head": "regression"}, "head 'regression' takes NumberTarget, but the data gives label"),
        ("cnn_tiny", {"spec": of(TEXT, LABEL)}, "encoder 'cnn' takes ImageInput, but the data gives text"),
        ("lstm_tiny", {"spec": of(TEXT, LABEL), "dimm": 3}, "encoder 'lstm' has no option 'dimm'\n.*did you mean 'dim'"),
        ("lstm_tin", {"spec": of(TEXT, LABEL)}, "did you mean 'lstm_tiny'"),
        ("vit_tiny", {"num_classes": 0}, "has 0 classes"),
    ],
)
def test_what_does_not_fit_is_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        zoo.create(name, **options)
