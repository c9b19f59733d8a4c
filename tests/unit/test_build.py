"""Wiring: specs reach components at any depth."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from zoo.build import Nodes, build_model
from zoo.data.fake import fake_batch
from zoo.errors import ConfigError
from zoo.model import Encoder, Model
from zoo.registry import DECODERS, ENCODERS, HEADS
from zoo.specs import ClassTarget, DataSpec, FeatureSpec, ImageInput, Layout, TextInput
from zoo.structs import Features, Values

LABEL = ClassTarget(name="label", labels=("a", "b", "c"))
IMAGE, TEXT = ImageInput(name="image", channels=1, height=8, width=8), TextInput(name="text", vocab_size=20, max_length=9)
TITLE = TextInput(name="title", vocab_size=30, max_length=5)


class Beside(nn.Module):
    """Encoders beside each other, their pooled features in one vector.

    Args:
        parts: encoders by the name of their input.
    """

    def __init__(self, *, parts: dict[str, Encoder]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)  # type: ignore[arg-type]
        self.output_spec = FeatureSpec(dim=sum(part.output_spec.dim for part in parts.values()), layout=Layout.VECTOR, pooled=True)

    def forward(self, inputs: dict[str, Values]) -> Features:
        found = [part(inputs[name].values, inputs[name].mask) for name, part in self.parts.items()]
        vectors: list[Tensor] = [features.tokens.mean(1) if features.pooled is None else features.pooled for features in found]
        return Features(pooled=torch.cat(vectors, dim=1))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    ENCODERS.register("beside")(Beside)
    yield
    del ENCODERS._live["beside"]


def build(parts: dict[str, str], *inputs: ImageInput | TextInput) -> Model:
    node = {"name": "beside", "parts": {label: {"name": name} for label, name in parts.items()}}
    nodes = Nodes(
        ENCODERS.check_node(node, "model.encoder"),
        DECODERS.check_node({"name": "none"}, "model.decoder"),
        HEADS.check_node({"name": "classification"}, "model.head"),
    )
    return build_model(nodes, DataSpec(inputs=inputs, targets=(LABEL,)))


def test_nested_encoders_are_wired_and_run() -> None:
    model = build({"image": "mlp", "text": "lstm"}, IMAGE, TEXT)
    assert model.inputs == ("image", "text")
    batch = fake_batch(DataSpec(inputs=(IMAGE, TEXT), targets=(LABEL,)), 3)
    assert model(batch.inputs)["logits"].shape == (3, 3)


def test_the_label_chooses_among_several_inputs() -> None:
    model = build({"title": "lstm", "text": "lstm"}, TEXT, TITLE)
    sizes = {name: part.embedding.num_embeddings for name, part in model.encoder.parts.items()}  # type: ignore[union-attr, operator]
    assert sizes == {"title": 30, "text": 20}


@pytest.mark.parametrize(
    ("parts", "path", "message"),
    [
        ({"words": "lstm"}, "model.encoder.parts.words", r"could take any of text, title\n.*name it after its input: model\.encoder\.parts\.text"),
        ({"text": "vit"}, "model.encoder.parts.text", "takes ImageInput, but the data gives text"),
    ],
)
def test_a_part_that_fits_nothing_is_told_with_its_path(parts: dict[str, str], path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        build(parts, TEXT, TITLE)
    assert told.value.path == path
