"""What a model's weights started from, as far as it is on record: for its card. Imports no torch, and fetches nothing.

A run says in ``config.yaml`` what its ``init`` was, and in ``init.json`` which file was read. That may be another run, which started from
something in its turn; a bundle that is no run's says in its card what it knows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zoo.hub.bundle import CARD, CONFIG, REPORT
from zoo.hub.files import read_plain_yaml
from zoo.hub.records import Record, names, record
from zoo.hub.uri import HubRepo, LibraryModel, parse

LONGEST = 20
"""Links of a chain; a longer one leads back to itself."""
PRETRAINED = ("timm", "torchvision")
"""Encoders that can begin with the weights of their library."""


@dataclass(frozen=True)
class Base:
    """Weights that others started from.

    Args:
        name: of a record, an address, or what a run is called; no path of a machine.
        kind: what it is, for people.
        repo: on the Hugging Face Hub, where it is known to lie there.
        licence: SPDX identifier of its weights; None where it is not on record.
        origin: where it came from.
        own: whether it is the user's own, unpublished: its licence is the user's to know.
    """

    name: str
    kind: str
    repo: str | None = None
    licence: str | None = None
    origin: str | None = None
    own: bool = False

    def __str__(self) -> str:
        licence = f"licence {self.licence}" if self.licence else "" if self.own else "licence not on record"
        facts = "; ".join(fact for fact in (licence, f"from {self.origin}" if self.origin else "") if fact)
        return f"{self.kind} `{self.name}`" + (f" ({facts})" if facts else "")


def lineage(config: Mapping[str, Any], run: Path | None = None) -> tuple[Base, ...]:
    """What a run's weights started from, nearest first; empty where they began at random.

    Args:
        config: the run's tree, with its ``init``.
        run: its directory, whose ``init.json`` says where the weights were read; None where it has none yet.
    """
    found: list[Base] = []
    init, place = config.get("init"), run
    while isinstance(init, str) and init and len(found) < LONGEST:
        folder = None if "://" in init else _folder(init, place)
        if folder is None:
            return (*found, _named(init))
        owner = _owner(folder)
        if owner is None:
            return (*found, *_of_bundle(folder))
        tree = read_plain_yaml(owner / CONFIG)
        found.append(Base(str(tree.get("name") or "unnamed"), "an unpublished run of zoo,", own=True))
        config, init, place = tree, tree.get("init"), owner
    return (*found, *_of_encoder(config))


def hub_base(bases: Sequence[Base]) -> str | None:
    """The nearest that lies on the Hugging Face Hub."""
    return next((base.repo for base in bases if base.repo), None)


def lineage_of(run: Path) -> tuple[Base, ...]:
    """Of a run's directory, by its own ``config.yaml``."""
    return lineage(read_plain_yaml(run / CONFIG), run)


def licence_notes(bases: Sequence[Base], licence: str | None) -> list[str]:
    """What somebody who publishes the weights has to look at, one sentence each; none where base and model have one licence."""
    told = []
    for base in bases:
        if base.licence is None and base.own:
            continue
        if base.licence is None:
            told.append(f"The licence of `{base.name}`, which these weights start from, is not on record here: the page that it comes from tells it.")
        elif licence is None:
            told.append(f"No licence is given for these weights; `{base.name}`, which they start from, has {base.licence}.")
        elif licence.lower() != base.licence.lower():
            told.append(
                f"The licence given for these weights, {licence}, is another than that of `{base.name}`, which they start from: {base.licence}. Whoever "
                "publishes them has to see to it that its terms allow that."
            )
    return told


def _named(init: str) -> Base:
    if "://" not in init:
        if init in names():
            return _of_record(record(init))
        path = Path(init).expanduser()
        called = path.parent if path.name in ("bundle", "checkpoints", "model.safetensors") else path
        return Base(called.name or "weights", "weights that are not published and no longer where they were read,", own=True)
    source = parse(init)
    match source:
        case HubRepo():
            return Base(str(source), "the repository", repo=source.repo, origin=f"https://huggingface.co/{source.repo}")
        case LibraryModel():
            return Base(str(source), "the weights")
    return Base(str(source), "the weights at")


def _of_record(known: Record) -> Base:
    repo = next((source.repo for source in known.sources if isinstance(source, HubRepo)), None)
    return Base(known.name, "the pretrained model", repo=repo, licence=known.licence, origin=known.origin)


def _folder(init: str, run: Path | None) -> Path | None:
    """Where the weights lie, if they are a folder's and still there: by what was typed, or by what was read. A name of a record is no folder."""
    path = Path(init).expanduser()
    if path.exists():
        return path.resolve()
    if run is None or init in names() or not (run / "init.json").is_file():
        return None
    told = json.loads((run / "init.json").read_text(encoding="utf-8")).get("source")
    read = Path(str(told).partition(" with ")[0])
    return read.resolve() if read.exists() else None


def _owner(path: Path) -> Path | None:
    """The run's directory that a bundle, a checkpoint or a file of theirs lies in."""
    inside = [path, *path.parents[:3]]
    return next((folder for folder in inside if (folder / CONFIG).is_file() and (folder / "overrides.yaml").is_file()), None)


def _of_bundle(path: Path) -> tuple[Base, ...]:
    """Of a bundle that is no run's: one that was converted says where from, any other what its card says."""
    folder = path.parent if path.is_file() else path
    name = str(read_plain_yaml(folder / CONFIG).get("name") or folder.name) if (folder / CONFIG).is_file() else folder.name
    if (folder / REPORT).is_file():
        source = str(json.loads((folder / REPORT).read_text(encoding="utf-8")).get("source"))
        return (_of_record(record(name)) if name in names() else _named(source),)
    front = _front_matter(folder / CARD)
    licence, base = front.get("license"), front.get("base_model")
    own = Base(name, "an unpublished bundle of zoo's,", licence=licence if isinstance(licence, str) else None, own=True)
    return (own, Base(base, "the repository", repo=base, origin=f"https://huggingface.co/{base}")) if isinstance(base, str) else (own,)


def _front_matter(card: Path) -> dict[str, Any]:
    """Of a model card; empty where it has none that can be read."""
    if not card.is_file():
        return {}
    parts = card.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        return {}
    try:
        tree = yaml.safe_load(parts[1])
    except (yaml.YAMLError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _of_encoder(config: Mapping[str, Any]) -> tuple[Base, ...]:
    """Encoders that begin with what their library has trained."""
    model = config.get("model")
    encoder = model.get("encoder") if isinstance(model, Mapping) else None
    if not isinstance(encoder, Mapping) or encoder.get("name") not in PRETRAINED or str(encoder.get("weights")) != "pretrained":
        return ()
    return (Base(f"{encoder['name']}://{encoder.get('model')}", "the weights"),)
