"""Registry: the signature is the schema; names are honest (R15); the static index equals the imported registry."""

import subprocess
import sys
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

import zoo.registry
from zoo.errors import ConfigError, RegistryError
from zoo.registry import ENCODERS, KINDS, Registry
from zoo.schema import REQUIRED, schema_of
from zoo.specs import ImageInput


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@pytest.fixture
def encoders() -> Registry:
    return Registry("encoder", "model/encoder")


def register(encoders: Registry) -> type:
    @encoders.register("toy")
    class Toy:
        """A toy. Not more.

        Args:
            width: how wide it is, in units
                that continue on a second line.
            colour: of the paint.
        """

        def __init__(self, *, image: ImageInput, width: int, colour: Colour = Colour.RED, sizes: tuple[int, ...] = (1, 2), rate: float | None = None) -> None:
            self.image, self.width, self.colour, self.sizes, self.rate = image, width, colour, sizes, rate

    return Toy


def test_signature_is_the_schema(encoders: Registry) -> None:
    register(encoders)
    schema = encoders.schema("toy")
    assert [(option.name, str(option.type), option.default) for option in schema.options] == [
        ("width", "int", REQUIRED),
        ("colour", "red | blue", "red"),
        ("sizes", "list of int", [1, 2]),
        ("rate", "float | null", None),
    ]
    assert [(wired.name, wired.specs) for wired in schema.wired] == [("image", ("ImageInput",))]
    assert schema.option("width").doc == "how wide it is, in units that continue on a second line."  # type: ignore[union-attr]
    assert schema.summary == "A toy."


def test_build_gives_enums_and_tuples(encoders: Registry) -> None:
    register(encoders)
    node = encoders.check_node({"name": "toy", "width": 3, "colour": "blue", "sizes": [4], "rate": 1}, "model.encoder")
    image = ImageInput(name="image", channels=1, height=8, width=8)
    toy = encoders.build(node, "model.encoder", image=image)
    assert (toy.width, toy.colour, toy.sizes, toy.rate, toy.image) == (3, Colour.BLUE, (4,), 1.0, image)
    assert isinstance(toy.colour, Colour)
    assert isinstance(toy.rate, float)


@pytest.mark.parametrize(
    ("options", "path", "says"),
    [
        ({"widht": 3}, "model.encoder.widht", "width"),
        ({"width": "3"}, "model.encoder.width", "expected int"),
        ({"width": True}, "model.encoder.width", "expected int"),
        ({"width": 3.5}, "model.encoder.width", "expected int"),
        ({"width": 3, "colour": "rde"}, "model.encoder.colour", "'red'"),
        ({"width": 3, "sizes": [1, "two"]}, "model.encoder.sizes[1]", "expected int"),
        ({"width": 3, "sizes": 4}, "model.encoder.sizes", "expected list of int"),
        ({"width": 3, "rate": "fast"}, "model.encoder.rate", "expected float | null"),
        ({}, "model.encoder.width", "how wide it is"),
        ({"width": 3, "image": 3}, "model.encoder.image", "no option 'image'"),
    ],
)
def test_wrong_nodes_are_refused_with_their_path(encoders: Registry, options: dict[str, Any], path: str, says: str) -> None:
    """R2: no key is ignored and no value is bent."""
    register(encoders)
    with pytest.raises(ConfigError) as caught:
        encoders.check_node({"name": "toy", **options}, "model.encoder")
    assert caught.value.path == path
    assert says in str(caught.value)


def test_group_written_with_a_dot(encoders: Registry) -> None:
    """R24: ``model.encoder=toy`` for ``model/encoder=toy``."""
    with pytest.raises(ConfigError, match="model/encoder=toy"):
        encoders.check_node("toy", "model.encoder")


def test_duplicate_names_both_files(encoders: Registry) -> None:
    """R15."""
    register(encoders)
    with pytest.raises(RegistryError) as caught:

        @encoders.register("toy")
        class Other:
            """Another."""

    assert str(caught.value).count(__file__) == 2
    with pytest.raises(RegistryError, match=r"zoo/encoders/vit\.py"):

        @ENCODERS.register("vit")
        class Mine:
            """Takes a name of zoo's own."""


def test_same_object_again_is_harmless(encoders: Registry) -> None:
    """R15: a cell run twice, a module reloaded."""
    first, second = register(encoders), register(encoders)
    assert first is not second
    assert encoders.load("toy") is second


def test_unknown_name_shows_near_names_all_and_broken_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R15: an installed distribution whose plugin is broken breaks nothing else, and is named with its real error."""
    (tmp_path / "zebra_zoo.py").write_text('raise ImportError("libzebra.so is missing")\n')
    installed = tmp_path / "zebra_zoo-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: zebra-zoo\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[zoo.components]\nzebra = zebra_zoo\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(zoo.registry, "plugin_errors", {})
    zoo.registry.load_plugins.cache_clear()
    try:
        with pytest.raises(RegistryError) as caught:
            ENCODERS.schema("vitt")
    finally:
        zoo.registry.load_plugins.cache_clear()
    message = str(caught.value)
    assert "did you mean 'vit'" in message
    assert all(name in message for name in ENCODERS.names())
    assert "zebra (zebra_zoo) could not be imported: ImportError: libzebra.so is missing" in message


def positional(dim: int) -> None: ...
def starred(**options: int) -> None: ...
def untyped(*, dim) -> None: ...  # type: ignore[no-untyped-def]
def unusable(*, dim: bytes) -> None: ...
def named(*, name: str) -> None: ...


@pytest.mark.parametrize(
    ("component", "says"), [(positional, "keyword-only"), (starred, "keyword-only"), (untyped, "no type"), (unusable, "bytes"), (named, "clash")]
)
def test_signatures_that_cannot_be_a_schema(encoders: Registry, component: Any, says: str) -> None:
    with pytest.raises(RegistryError, match=says):
        encoders.register("bad")(component)


@pytest.mark.parametrize("kind", KINDS)
def test_static_index_equals_the_imported_registry(kind: str) -> None:
    for name in KINDS[kind].names():
        component = KINDS[kind].load(name)
        static = zoo.registry._builtin(kind)[name]
        live = schema_of(component, kind=kind, name=name)
        assert static.options == live.options, name
        assert static.wired == live.wired, name
        assert (static.module, static.qualname, static.summary, static.doc) == (live.module, live.qualname, live.summary, live.doc)
        assert Path(static.origin.rpartition(":")[0]) == Path(live.origin.rpartition(":")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_documented(kind: str) -> None:
    missing = [f"{name}.{option.name}" for name in KINDS[kind].names() for option in KINDS[kind].schema(name).options if not option.doc]
    assert not missing


def test_damaged_cache_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.index import read_index

    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    fresh = read_index()
    (cached,) = tmp_path.glob("index-*.json")
    assert read_index() == fresh
    cached.write_text("[{")
    assert read_index() == fresh
    assert cached.read_text() != "[{"


def test_names_and_schemas_need_no_torch() -> None:
    """R15."""
    code = """
        import sys, zoo
        from zoo.registry import KINDS
        assert zoo.list("encoder", "vi*") == ["vit"]
        [registry.schema(name) for registry in KINDS.values() for name in registry.names()]
        assert not {"torch", "hydra", "numpy"} & set(sys.modules), sorted(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
