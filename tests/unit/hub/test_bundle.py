"""Bundles: written whole, read strictly, trusted in nothing."""

import json
import os
import pickle
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from tests.bundles import KINDS, config, make_bundle, processor
from zoo.build import build_model
from zoo.data.codecs.image import ImageCodec
from zoo.errors import CheckpointError, ZooError
from zoo.hub.bundle import FILES, load_bundle, open_bundle, write_bundle
from zoo.hub.files import published
from zoo.hub.resolve import load, resolve
from zoo.hub.weights import read_header, save_weights
from zoo.registry import ENCODERS
from zoo.specs import FeatureSpec, ImageInput, Layout
from zoo.structs import Features


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {kind: make_bundle(kind, folder / kind, metrics={"test/accuracy": 0.75, "validation/accuracy": 0.8}) for kind in KINDS}


@pytest.fixture
def bundle(originals: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(originals["image"], tmp_path / "bundle"))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """What a hostile file would create if any code of it ran."""
    return tmp_path / "canary"


# --- what is written is what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_weights_processor_and_figures_come_back(originals: dict[str, Path], kind: str) -> None:
    loaded = load_bundle(originals[kind])
    stored = load_file(originals[kind] / "model.safetensors")
    state = loaded.model.state_dict()
    assert set(state) == set(stored)
    assert all(torch.equal(state[name], stored[name]) for name in state)
    assert not loaded.model.training
    assert loaded.processor.spec == processor(kind).spec == loaded.bundle.spec
    assert loaded.bundle.metrics == {"test/accuracy": 0.75, "validation/accuracy": 0.8}
    assert loaded.bundle.input == loaded.processor.inputs[loaded.model.input].spec


def test_config_is_names_and_values(originals: dict[str, Path]) -> None:
    """R1: nothing but plain YAML, without paths of the machine that trained."""
    text = (originals["image"] / "config.yaml").read_text()
    assert "!!" not in text
    assert "_target_" not in text
    tree = yaml.safe_load(text)
    assert tree["format"] == 1
    assert tree["model"]["encoder"]["name"] == "cnn"
    assert tree["data"]["name"] == "digits"
    assert tree["run_dir"] is None
    assert tree["logger"] == {}


def test_the_card_is_fit_for_the_hub(originals: dict[str, Path]) -> None:
    """Its front matter is what huggingface.co documents: tags, pipeline, figures by split."""
    text = (originals["image"] / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "zoo"
    assert front["pipeline_tag"] == "image-classification"
    [test, validation] = front["model-index"][0]["results"]
    assert test["dataset"]["split"] == "test"
    assert test["metrics"] == [{"type": "accuracy", "value": 0.75, "name": "test/accuracy"}]
    assert validation["metrics"][0]["value"] == 0.8
    assert "zoo predict" in text
    assert "- **source**: made up" in text


def test_a_run_directory_stands_for_its_bundle(originals: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(originals["image"], run / "bundle")
    assert open_bundle(run).path == run / "bundle"
    unfinished = tmp_path / "unfinished"
    (unfinished / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"has written no bundle yet\n.*zoo train resume=.*\n.*zoo export"):
        open_bundle(unfinished)


def test_tied_weights_are_written_under_every_name(tmp_path: Path) -> None:
    tied = nn.Linear(4, 4, bias=False)
    save_weights(tmp_path / "w.safetensors", {"a": tied.weight, "b": tied.weight, "c": tied.weight.t()})
    stored = load_file(tmp_path / "w.safetensors")
    assert torch.equal(stored["a"], stored["b"])
    assert torch.equal(stored["a"].t(), stored["c"])


def test_published_whole_or_not_at_all(tmp_path: Path) -> None:
    """R5: a failure half-way leaves the older bundle as it was, and nothing beside it."""
    target = make_bundle("image", tmp_path / "here" / "bundle")
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    class Full(dict[str, torch.Tensor]):
        def items(self) -> Any:
            raise OSError("no space left on device")

    settings, codecs = config("image"), processor("image")
    model = build_model(settings, codecs.spec)
    with pytest.raises(OSError, match="no space left"):
        write_bundle(target, config=settings, processor=codecs, model=model, metrics={}, state=Full())
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]


def test_readers_never_see_half_a_bundle(tmp_path: Path) -> None:
    """R5: at every moment of a write, the folder is absent or complete."""
    target, seen, stop = tmp_path / "b", [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(len(list(target.iterdir())) if target.exists() else 0)

    thread = threading.Thread(target=look)
    thread.start()
    with published(target) as fresh:
        for number in range(20):
            (fresh / f"{number}").write_text("x")
    stop.set()
    thread.join()
    seen.append(len(list(target.iterdir())))
    assert set(seen) <= {0, 20}
    assert seen[-1] == 20


# --- every tensor is accounted for (R6) ---------------------------------------------------------------------------------------


def spoil_weights(bundle: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(bundle / "model.safetensors")
    change(tensors)
    save_file(tensors, bundle / "model.safetensors")


def test_each_tensor_matters(bundle: Path) -> None:
    """R6: leave out, rename and reshape every single tensor: refused each time, and named."""
    path = bundle / "model.safetensors"
    original = path.read_bytes()
    for name, tensor in load_file(path).items():
        for problem, change in (
            (rf"missing: {name} ", lambda tensors, name=name: tensors.pop(name)),
            (rf"missing: {name} .*\(renamed to {name}x\?\)", lambda tensors, name=name: tensors.update({f"{name}x": tensors.pop(name)})),
            (
                rf"other shape: {name} is {[*tensor.shape, 1]!r} in the file".replace("[", r"\[").replace("]", r"\]"),
                lambda tensors, name=name: tensors.update({name: tensors[name][..., None].clone()}),
            ),
        ):
            path.write_bytes(original)
            spoil_weights(bundle, change)
            with pytest.raises(CheckpointError, match=problem):
                load_bundle(bundle)


def test_tensors_too_many_are_named(bundle: Path) -> None:
    spoil_weights(bundle, lambda tensors: tensors.update({"backdoor.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"unexpected: backdoor.weight F32 \[2\]"):
        load_bundle(bundle)


def test_a_config_that_asks_for_other_sizes_is_refused_before_memory_is(bundle: Path) -> None:
    """R6: a terabyte in the config does not cost a terabyte to refuse."""
    change_yaml(bundle, lambda tree: tree["model"]["encoder"].update(widths=[500_000, 500_000]))
    with pytest.raises(CheckpointError, match="other shape"):
        load_bundle(bundle)


# --- hostile bundles (R1) -----------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it creates the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def change_yaml(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = yaml.safe_load((bundle / "config.yaml").read_text())
    change(tree)
    (bundle / "config.yaml").write_text(yaml.safe_dump(tree))


def add_text(bundle: Path, text: str) -> None:
    with (bundle / "config.yaml").open("a") as file:
        file.write(text)


HOSTILE_YAML = {
    "python object": ('!!python/object/apply:os.system ["touch CANARY"]', "not plain YAML"),
    "python name": ("!!python/name:os.system", "not plain YAML"),
    "local tag": ("!zoo {a: 1}", "not plain YAML"),
    "binary": ("!!binary aGVsbG8=", "no plain value"),
    "date": ("2026-01-01", "no plain value"),
    "set": ("!!set {a, b}", "no plain value"),
    "_target_": ("{_target_: os.system, command: touch CANARY}", "_target_ asks to run code"),
    "_partial_": ("[{_partial_: true}]", "_partial_ asks to run code"),
    "alias": ("[&a [x], *a]", "alias"),
    "number as key": ("{1: 2}", "is no string"),
    "deep": ("[" * 3000 + "]" * 3000, "not plain YAML"),
}


@pytest.mark.parametrize(("text", "problem"), HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_yaml(bundle: Path, canary: Path, text: str, problem: str) -> None:
    """R1."""
    add_text(bundle, f"hostile: {text.replace('CANARY', str(canary))}\n")
    with pytest.raises(CheckpointError, match=problem):
        load_bundle(bundle)
    assert not canary.exists()


def pickled(bundle: Path, canary: Path) -> None:
    (bundle / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary)))


def torch_archive(bundle: Path, canary: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": Bomb(canary)}, bundle / "model.safetensors")


def old_pickle(bundle: Path, canary: Path) -> None:
    (bundle / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary), protocol=0))


def pickle_beside(bundle: Path, canary: Path) -> None:
    (bundle / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))


def pickle_in_processor(bundle: Path, canary: Path) -> None:
    (bundle / "processor" / "codec.pkl").write_bytes(pickle.dumps(Bomb(canary)))


def code_beside(bundle: Path, canary: Path) -> None:
    """Python files in a bundle are allowed to lie there; they are never imported."""
    for name in ("modeling.py", "sitecustomize.py", "cnn.py", "__init__.py"):
        (bundle / name).write_text(f"open({str(canary)!r}, 'w')")
    change_yaml(bundle, lambda tree: tree["model"]["encoder"].update(name="modeling"))


def import_string(bundle: Path, canary: Path) -> None:
    change_yaml(bundle, lambda tree: tree["model"]["encoder"].update(name="os.system"))


def import_path(bundle: Path, canary: Path) -> None:
    change_yaml(bundle, lambda tree: tree["model"]["head"].update(name="../modeling.py"))


def import_option(bundle: Path, canary: Path) -> None:
    change_yaml(bundle, lambda tree: tree["model"]["encoder"].update(trust_remote_code=True))


def tokenizer_import(bundle: Path, canary: Path) -> None:
    change_yaml(bundle, lambda tree: tree["data"].update(tokenizer={"name": "subprocess.run"}))


def codec_kind(bundle: Path, canary: Path) -> None:
    change_json(bundle, lambda tree: tree["inputs"]["image"].update(kind="os.system"))


def codec_name(bundle: Path, canary: Path) -> None:
    change_json(bundle, lambda tree: tree["inputs"].update({"../../escape": tree["inputs"]["image"]}))


def change_json(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = bundle / "processor" / "processor.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def link_weights(bundle: Path, canary: Path) -> None:
    path = bundle / "model.safetensors"
    path.rename(bundle.parent / "outside.safetensors")
    path.symlink_to(bundle.parent / "outside.safetensors")


def link_folder(bundle: Path, canary: Path) -> None:
    (bundle / "processor").rename(bundle.parent / "outside")
    (bundle / "processor").symlink_to("../outside")


def link_loop(bundle: Path, canary: Path) -> None:
    (bundle / "loop").symlink_to(bundle / "loop")


def pipe(bundle: Path, canary: Path) -> None:
    (bundle / "model.safetensors").unlink()
    os.mkfifo(bundle / "model.safetensors")


def other_format(bundle: Path, canary: Path) -> None:
    change_yaml(bundle, lambda tree: tree.update(format=99))


def other_data(bundle: Path, canary: Path) -> None:
    change_yaml(bundle, lambda tree: tree["spec"]["inputs"][0].update(channels=3))


def strange_spec(bundle: Path, canary: Path) -> None:
    change_yaml(bundle, lambda tree: tree["spec"].update(inputs=[{"kind": "image", "name": "image"}]))


def metrics_no_numbers(bundle: Path, canary: Path) -> None:
    (bundle / "metrics.json").write_text('{"metrics": {"test/accuracy": {"__class__": "os"}}, "tables": {}}')


HOSTILE = {
    pickled: "is a pickle",
    torch_archive: "is a pickle",
    old_pickle: "no safetensors file",
    pickle_beside: "holds no pickles",
    pickle_in_processor: "holds no pickles",
    code_beside: r"needs the encoder 'modeling', .* needs a plugin\n.*zoo predict --import",
    import_string: "needs the encoder 'os.system'",
    import_path: "needs the head '../modeling.py'",
    import_option: "trust_remote_code",
    tokenizer_import: "needs the tokenizer 'subprocess.run'",
    codec_kind: "unknown kind 'os.system'",
    codec_name: "cannot name an input",
    link_weights: "outside the bundle",
    link_folder: "outside the bundle",
    link_loop: "refused",
    pipe: "no ordinary file",
    other_format: "format 99",
    other_data: "describe different data",
    strange_spec: "spec: TypeError",
    metrics_no_numbers: "mapping of names to numbers",
}


@pytest.mark.parametrize(("spoil", "problem"), HOSTILE.items(), ids=[spoil.__name__ for spoil in HOSTILE])
def test_hostile_bundle(bundle: Path, canary: Path, spoil: Callable[[Path, Path], None], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1: refused with one clear message; nothing in it ran."""
    spoil(bundle, canary)
    monkeypatch.chdir(bundle)  # even from inside it
    with pytest.raises(CheckpointError, match=problem):
        load(bundle, device="cpu")
    assert not canary.exists()


def test_every_file_is_needed(bundle: Path) -> None:
    for name in FILES:
        content = (bundle / name).read_bytes()
        (bundle / name).unlink()
        with pytest.raises(CheckpointError, match=name.rsplit("/", 1)[-1]):
            load_bundle(bundle)
        (bundle / name).write_bytes(content)
    load_bundle(bundle)


def header_file(path: Path, header: Any, data: bytes, length: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LYING_HEADERS: dict[str, tuple[Any, bytes, int | None]] = {
    "longer than the file": ({"a": F32}, b"\0" * 8, 1 << 40),
    "negative as unsigned": ({"a": F32}, b"\0" * 8, (1 << 64) - 1),
    "data cut short": ({"a": F32}, b"\0" * 7, None),
    "data too long": ({"a": F32}, b"\0" * 9, None),
    "shape larger than its bytes": ({"a": {**F32, "shape": [1 << 40]}}, b"\0" * 8, None),
    "shape that overflows": ({"a": {**F32, "shape": [1 << 62, 1 << 62]}}, b"\0" * 8, None),
    "offsets behind the end": ({"a": {**F32, "data_offsets": [1 << 40, (1 << 40) + 8]}}, b"\0" * 8, None),
    "offsets backwards": ({"a": {**F32, "data_offsets": [8, 0]}}, b"\0" * 8, None),
    "tensors that overlap": ({"a": F32, "b": F32}, b"\0" * 8, None),
    "negative shape": ({"a": {**F32, "shape": [-2]}}, b"\0" * 8, None),
    "unknown type": ({"a": {**F32, "dtype": "PICKLE"}}, b"\0" * 8, None),
    "no JSON": (b"{" * 40, b"\0" * 8, None),
    "not a mapping": ([1, 2], b"", None),
    "deep": (b"[" * 100_000, b"", None),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8, None),
    "empty": (b"", b"", None),
}


@pytest.mark.parametrize(("header", "data", "length"), LYING_HEADERS.values(), ids=LYING_HEADERS)
def test_lying_headers(tmp_path: Path, header: Any, data: bytes, length: int | None) -> None:
    """R1: refused from the header, before any of the memory it promises is asked for."""
    header_file(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=r"safetensors"):
        read_header(tmp_path / "model.safetensors")


def test_truncated_anywhere(bundle: Path) -> None:
    """R5: a file cut at any length is refused."""
    path = bundle / "model.safetensors"
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_bundle(bundle)


JUNK: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, float("inf"), "", "../x", [], [None], {}, {"name": "x"}, [[1]], "\0")


@pytest.mark.parametrize("kind", KINDS)
def test_no_junk_gets_further_than_a_clear_error(originals: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """R1, R6: put junk in the place of every value of the processor's state, and of the config's spec and model: never anything but a ZooError."""
    bundle = Path(shutil.copytree(originals[kind], tmp_path / "b"))
    config_file, processor_file = bundle / "config.yaml", bundle / "processor" / "processor.json"
    tree, state = yaml.safe_load(config_file.read_text()), json.loads(processor_file.read_text())
    tried = refused = 0
    places = [(processor_file, state, path) for path in leaves(state)] + [
        (config_file, tree, path) for key in ("spec", "model") for path in leaves(tree[key], (key,))
    ]
    for turn, (file, content, path) in enumerate(places):
        for junk in JUNK[turn % 7 :: 7]:
            spoiled = json.loads(json.dumps(content))
            node = spoiled
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = junk
            file.write_text(yaml.safe_dump(spoiled) if file is config_file else json.dumps(spoiled))
            tried += 1
            try:
                load_bundle(bundle)
            except ZooError:
                refused += 1
        file.write_text(yaml.safe_dump(content) if file is config_file else json.dumps(content))
    assert refused > tried / 2
    load_bundle(bundle)


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of all values, nested ones and their parents; of long lists the first only."""
    if isinstance(node, dict):
        return [place for key, entry in node.items() for place in [(*path, key), *leaves(entry, (*path, key))]]
    if isinstance(node, list) and node:
        return [(*path, 0), *leaves(node[0], (*path, 0))]
    return []


# --- components of the user's own ---------------------------------------------------------------------------------------------


def test_a_plugin_is_asked_for_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle with a component of the user's own loads while it is registered, and says what is missing otherwise."""

    @ENCODERS.register("own_encoder")
    class OwnEncoder(nn.Module):
        """One layer."""

        def __init__(self, *, image: ImageInput, width: int = 4) -> None:
            super().__init__()
            self.layer = nn.Linear(image.channels * image.height * image.width, width)
            self.output_spec = FeatureSpec(dim=width, layout=Layout.VECTOR, pooled=True)

        def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> Features:
            return Features(pooled=self.layer(values.flatten(1)))

    try:
        parts = {"encoder": {"name": "own_encoder", "width": 3}, "decoder": {"name": "none"}, "head": {"name": "classification"}}
        settings, codecs = config("image", model=parts), processor("image")
        bundle = write_bundle(tmp_path / "b", config=settings, processor=codecs, model=build_model(settings, codecs.spec), metrics={})
        assert load_bundle(bundle).model.encoder.layer.out_features == 3
    finally:
        del ENCODERS._live["own_encoder"]
    with pytest.raises(
        CheckpointError, match=r"needs the encoder 'own_encoder', which is not part of zoo: the bundle needs a plugin\n.*--import test_bundle.py"
    ):
        load_bundle(bundle)


# --- names --------------------------------------------------------------------------------------------------------------------


def test_names_and_paths(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("bundle") == Path("bundle")
    (tmp_path / "conf" / "pretrained").mkdir(parents=True)
    texts = "task: image-classification\nmodality: image\narchitecture: mlp\nlicence: MIT\norigin: a test\nparameters: 1\n"
    (tmp_path / "conf" / "pretrained" / "small_digits.yaml").write_text(f"# A test.\n{texts}bundle: bundle\n")
    assert resolve("small_digits") == tmp_path / "bundle"
    assert load("small_digits", device="cpu").metrics == {"test/accuracy": 0.75, "validation/accuracy": 0.8}
    with pytest.raises(CheckpointError, match="did you mean 'small_digits'"):
        resolve("small_digit")
    with pytest.raises(CheckpointError, match=r"s3://.*loaded from folders, names and addresses(?s:.*)zoo export s3://bucket/x --to FOLDER"):
        resolve("s3://bucket/x")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        resolve("./nowhere")


def test_opening_a_bundle_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R18: offline, and whatever a component calls its option: the weights are in the bundle."""
    import timm.models._builder

    fetched: list[int] = []
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *_, **__: fetched.append(1))
    encoder = {"name": "timm", "model": "vit_tiny_patch16_224", "weights": "pretrained"}
    model = {"encoder": encoder, "decoder": {"name": "none"}, "head": {"name": "classification"}}
    data = {"name": "digits", "batch_size": 8, "image_size": 224, "augment": {}}
    settings = config("image", model=model, data=data)
    codecs = processor("image")
    codecs.inputs["image"] = ImageCodec(name="image", channels=1, size=(224, 224))
    built = build_model(settings, codecs.spec)
    assert fetched == [1]
    write_bundle(tmp_path / "bundle", config=settings, processor=codecs, model=built, metrics={})
    assert load_bundle(tmp_path / "bundle").model.num_parameters() == built.num_parameters()
    assert yaml.safe_load((tmp_path / "bundle" / "config.yaml").read_text())["model"]["encoder"]["weights"] == "pretrained"
    assert fetched == [1]
