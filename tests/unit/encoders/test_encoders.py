"""What single encoders promise beyond the contract."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from zoo.encoders.cnn import ConvolutionalNetwork
from zoo.encoders.mlp import MultiLayerPerceptron
from zoo.encoders.table import TableNetwork
from zoo.encoders.timm import Output, TimmModel
from zoo.encoders.vit import ImagePool, VisionTransformer
from zoo.heads.classification import ClassificationHead
from zoo.model import mixes_batch
from zoo.specs import ClassTarget, ImageInput, TableInput

IMAGE = ImageInput(name="image", channels=1, height=28, width=28)
TABLE = TableInput(name="table", numbers=2, categories=(3, 4))


def test_importing_components_loads_no_heavy_library() -> None:
    """Start-up: timm, torchvision, torchaudio and torchmetrics take seconds each, so they load where they are used."""
    code = """
import sys
from zoo.registry import DECODERS, ENCODERS, HEADS
for registry in (ENCODERS, DECODERS, HEADS):
    for name in registry.names():
        registry.load(name)
print([name for name in ("timm", "torchvision", "torchaudio", "torchmetrics", "sklearn", "transformers") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_default_cnn_stays_under_100k_parameters_on_fashion_mnist() -> None:
    encoder = ConvolutionalNetwork(image=IMAGE)
    head = ClassificationHead(features=encoder.output_spec, target=ClassTarget(name="label", labels=tuple("0123456789")))
    assert sum(parameter.numel() for parameter in [*encoder.parameters(), *head.parameters()]) < 100_000
    assert not mixes_batch(encoder)


def test_mlp_takes_categories_one_hot() -> None:
    encoder = MultiLayerPerceptron(input=TABLE, dims=(5,))
    numbers, categories = torch.randn(3, 2), torch.tensor([[0, 3], [2, 0], [1, 1]])
    flat = torch.cat((numbers, F.one_hot(categories[:, 0], 3), F.one_hot(categories[:, 1], 4)), dim=1)
    expected = (flat @ encoder.layers[0].weight.T + encoder.layers[0].bias).relu()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(encoder({"numbers": numbers, "categories": categories}).pooled, expected)


def test_table_embeds_by_size_or_as_told() -> None:
    assert [embedding.embedding_dim for embedding in TableNetwork(table=TableInput(name="t", numbers=0, categories=(3, 20, 1000))).embeddings] == [2, 10, 32]  # type: ignore[union-attr]
    assert [embedding.embedding_dim for embedding in TableNetwork(table=TABLE, embedding_dim=7).embeddings] == [7, 7]  # type: ignore[union-attr]


def test_vit_pools_as_told() -> None:
    image = torch.randn(2, 1, 28, 28)
    cls, mean = (VisionTransformer(image=IMAGE, dim=12, depth=1, patch_size=7, pool=pool) for pool in (ImagePool.CLS, ImagePool.MEAN))
    assert cls.output_spec.length == 17
    assert mean.output_spec.length == 16
    assert torch.equal(cls(image).pooled, cls(image).tokens[:, 0])
    assert torch.equal(mean(image).pooled, mean(image).tokens.mean(dim=1))


def test_timm_gives_maps_and_pooled_vectors_of_its_own_models() -> None:
    import timm

    torch.manual_seed(0)
    image = torch.randn(2, 1, 64, 64)
    encoder = TimmModel(image=ImageInput(name="image", channels=1, height=64, width=64), model="test_resnet").eval()
    assert torch.equal(encoder(image).pooled, encoder.model(image))
    assert mixes_batch(TimmModel(image=IMAGE, model="test_resnet"))
    reference = timm.create_model("test_resnet", in_chans=1, features_only=True).eval()
    maps = TimmModel(image=ImageInput(name="image", channels=1, height=64, width=64), model="test_resnet", output=Output.MAPS).eval()
    maps.model.load_state_dict(reference.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(maps(image).maps, reference(image), strict=True))
    assert [(level.channels, level.stride) for level in maps.output_spec.maps] == list(
        zip(reference.feature_info.channels(), reference.feature_info.reduction(), strict=True)
    )


def test_timm_vit_takes_the_datas_image_size() -> None:
    encoder = TimmModel(image=ImageInput(name="image", channels=3, height=64, width=32), model="test_vit").eval()
    assert encoder(torch.randn(1, 3, 64, 32)).pooled.shape == (1, encoder.output_spec.dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet_18"}, r"model='resnet_18' is no model of timm .*; did you mean .*'resnet18'"),
        ({"model": "resnet18", "drop_path": 2.0, "output": Output.POOLED}, r"drop_path=2.0 is no probability"),
        ({"model": "test_vit", "drop_path": 0.1}, r"16 x 16 pixels, do not divide the image, 30 x 30; choose"),
    ],
)
def test_timm_refusals_name_what_would_do(options: dict[str, object], message: str) -> None:
    image = ImageInput(name="image", channels=3, height=30, width=30) if options["model"] == "test_vit" else IMAGE
    with pytest.raises(ValueError, match=message):
        TimmModel(image=image, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConvolutionalNetwork(image=IMAGE, widths=(8, 16), blocks=(1,)), r"widths=\[8, 16\] and blocks=\[1\]"),
        (lambda: ConvolutionalNetwork(image=IMAGE, stem_stride=3), "stem_stride=3 is not one of 1, 2, 4"),
        (lambda: MultiLayerPerceptron(input=TABLE, dims=()), r"dims=\[\] gives no widths"),
        (lambda: TableNetwork(table=TableInput(name="t", numbers=0)), "the table has no columns"),
        (lambda: TableNetwork(table=TABLE, embedding_dim=0), "embedding_dim=0 is no width"),
        (lambda: VisionTransformer(image=IMAGE, patch_size=7, depth=0), "depth=0 gives no blocks"),
    ],
)
def test_values_that_cannot_be_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
