"""What a model's weights started from, as far as it is on record: for its card. Imports no torch, and fetches nothing.

A run says in ``config.yaml`` what its ``init`` was, and in ``init.json`` which file was read. That may be another run, which started from
something in its turn; a bundle says in ``metrics.json`` what its run started from, or in its card what it knows. Whatever of that cannot be read
is not on record: nobody's card ends a training.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import ZooError
from zoo.files import home
from zoo.hub.bundle import CARD, CONFIG, METRICS, REPORT, WEIGHTS
from zoo.hub.files import read_plain_json, read_plain_yaml, read_text
from zoo.hub.local import is_foreign
from zoo.hub.portable import portable_path
from zoo.hub.records import BUNDLE, Record, names, record, records
from zoo.hub.source import SOURCE, read_source, sha256_of
from zoo.hub.uri import HubRepo, LibraryModel, UriError, parse

LONGEST = 20
"""Links of a chain; a longer one leads back to itself."""
PRETRAINED = ("timm", "torchvision")
"""Encoders that can begin with the weights of their library."""
LINEAGE = "lineage"
"""Key of a bundle's ``metrics.json``."""
AVERAGED = " with the averages of ema.safetensors"
"""Behind the file that was read, in ``init.json``."""
_PLAIN = re.compile(r"[^`\n\r]{1,300}")
_LICENCE = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}", re.ASCII)


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
        merged: further repositories, where weights were made of several.
    """

    name: str
    kind: str
    repo: str | None = None
    licence: str | None = None
    origin: str | None = None
    own: bool = False
    merged: tuple[str, ...] = ()

    def __str__(self) -> str:
        licence = f"licence {self.licence}" if self.licence else "" if self.own else "licence not on record"
        facts = "; ".join(fact for fact in (licence, f"from {self.origin}" if self.origin else "") if fact)
        names = " and ".join(f"`{name}`" for name in (self.name, *self.merged))
        return f"{self.kind} {names}" + (f" ({facts})" if facts else "")


def lineage(config: Mapping[str, Any], run: Path | None = None) -> tuple[Base, ...]:
    """What a run's weights started from, nearest first; empty where they began at random. Raises nothing: what cannot be read is not on record.

    Args:
        config: the run's tree, with its ``init``.
        run: its directory, whose ``init.json`` says where the weights were read; None where it has none yet.
    """
    found: list[Base] = []
    init, place = config.get("init"), run
    while isinstance(init, str) and init and len(found) < LONGEST:
        try:
            step = _step(init, place)
        except (ZooError, OSError, RuntimeError, ValueError, TypeError):  # a record that is damaged, a home of nobody's, a path that is too long
            return (*found, _gone(init))
        if not isinstance(step, Path):
            return (*found, *step)
        tree = _tree(step / CONFIG)
        found.append(Base(_text(tree.get("name")) or "unnamed", "an unpublished run of zoo,", own=True))
        config, init, place = tree, tree.get("init"), step
    return (*found, *_of_encoder(config))


def hub_base(bases: Sequence[Base]) -> str | list[str] | None:
    """The nearest that lies on the Hugging Face Hub; several, where it was made of several."""
    found = next((base for base in bases if base.repo), None)
    if found is None or found.repo is None:
        return None
    return [found.repo, *found.merged] if found.merged else found.repo


def lineage_of(run: Path) -> tuple[Base, ...]:
    """Of a run's directory, by its own ``config.yaml``."""
    return lineage(read_plain_yaml(run / CONFIG), run)


def as_data(bases: Sequence[Base]) -> list[dict[str, Any]]:
    """For a bundle's ``metrics.json``, so that the chain does not end at a copy of it."""
    return [{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(base).items() if value} for base in bases]


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


def _step(init: str, run: Path | None) -> Path | tuple[Base, ...]:
    """The run's directory that weights are of; else what they are, and what they started from."""
    folder = None if "://" in init else _folder(init, run)
    if folder is None:
        told = _json(run / "init.json").get("source") if run is not None else None
        of_cache = not isinstance(told, str) or Path(told).parent.name.startswith(f"{init}-")
        if init in names() and not of_cache and record(init).bundle is None:  # a folder of that name was read, which is gone
            return (_gone(init),)
        return (_named(init),)
    return _owner(folder) or _of_folder(folder, init)


def _named(text: str) -> Base:
    """By a name or an address alone."""
    if "://" not in text:
        return _of_record(record(text)) if text in names() else _gone(text)
    try:
        source = parse(text)
    except UriError:
        return Base(_text(text.partition("://")[2].rpartition("@")[2]) or "weights", "the weights at")
    match source:
        case HubRepo():
            return replace(_of_repository(source.repo), name=str(source))
        case LibraryModel():
            return Base(str(source), "the weights")
    known = next((found for found in _records() if source in found.sources), None)
    return _of_record(known) if known is not None else Base(str(source), "the weights at")


def _gone(init: str) -> Base:
    path = Path(init)
    called = path.parent if path.name in ("bundle", "checkpoints", WEIGHTS) else path
    return Base(_text(called.name) or "weights", "weights that are not published and no longer where they were read,", own=True)


def _of_record(known: Record) -> Base:
    repo = next((source.repo for source in known.sources if isinstance(source, HubRepo)), None)
    return Base(known.name, "the pretrained model", repo=repo, licence=known.licence, origin=known.origin)


def _of_repository(repo: str, merged: tuple[str, ...] = ()) -> Base:
    """With the licence that a record has for it."""
    licence = next((known.licence for known in _records() if any(isinstance(source, HubRepo) and source.repo == repo for source in known.sources)), None)
    if merged:
        return Base(repo, "the repositories", repo=repo, merged=merged)
    return Base(repo, "the repository", repo=repo, licence=licence, origin=f"https://huggingface.co/{repo}")


def _records() -> list[Record]:
    try:
        return list(records().values())
    except ZooError:  # one of the user's own that cannot be used; every command that needs it says so
        return []


def _folder(init: str, run: Path | None) -> Path | None:
    """Where the weights lie, if they are a folder's and still there: by what was read, where that is on record, or by what was typed."""
    told = _json(run / "init.json").get("source") if run is not None else None
    if isinstance(told, str) and told:
        read = Path(told.removesuffix(AVERAGED))
        if read.exists():
            return read.resolve()
    path = home(init)
    if path.exists() and not (told and init in names()):  # a folder that came to lie here later is not what was read
        return path.resolve()
    return None


def _owner(path: Path) -> Path | None:
    """The run's directory that a bundle, a checkpoint or a file of theirs lies in; what else lies in it is no run's."""
    for folder in (path, *list(path.parents)[:3]):
        if (folder / CONFIG).is_file() and (folder / "overrides.yaml").is_file():
            inside = path.relative_to(folder).parts
            own = not inside or inside[0] == "checkpoints" or inside in (("bundle",), ("bundle", WEIGHTS))
            return folder if own else None
    return None


def _of_folder(path: Path, init: str) -> tuple[Base, ...]:
    """Of what is no run's: a bundle that zoo brought or that somebody copied, or another library's folder."""
    folder = path.parent if path.is_file() else path
    if is_foreign(folder):
        return _of_foreign(folder)
    known = _record_of(folder)
    if known is not None:
        return (_of_record(known),)
    if (folder / REPORT).is_file():
        source = _json(folder / REPORT).get("source")
        if isinstance(source, str) and "://" in source:
            return (_named(source),)
        typed = home(init)
        if isinstance(source, str) and typed.name == Path(source).name and is_foreign(typed):  # what it was converted from
            return _of_foreign(typed.resolve())
        called = Path(source).name if isinstance(source, str) else folder.name
        return (Base(_text(called) or "weights", "weights that zoo did not train, of the folder"),)
    front = _front_matter(folder / CARD)
    own = Base(_text(_tree(folder / CONFIG).get("name")) or folder.name, "an unpublished bundle of zoo's,", licence=_licence(front), own=True)
    kept = _from_data(_json(folder / METRICS).get(LINEAGE))
    return (own, *(kept if kept is not None else _bases(front)))


def _of_foreign(folder: Path) -> tuple[Base, ...]:
    front = _front_matter(folder / CARD)
    return (Base(_text(folder.name) or "weights", "weights that zoo did not train, of the folder", licence=_licence(front)), *_bases(front))


def _record_of(folder: Path) -> Record | None:
    """The record whose files these are, by their checksums; a name alone is anybody's to take."""
    try:
        told = read_source(folder / SOURCE) if (folder / SOURCE).is_file() else None
    except ZooError:
        told = None
    weights = folder / WEIGHTS
    size = weights.stat().st_size if weights.is_file() else None
    for known in _records():
        sums = {path: info.sha256 for path, info in known.files.items()}
        if told is not None and sums and told["files"] == sums and told["written"].get(WEIGHTS) == sha256_of(weights):
            return known
        info = known.files.get(WEIGHTS)
        if known.format == BUNDLE and info is not None and info.size == size and info.sha256 == sha256_of(weights):
            return known
    return None


def _json(file: Path) -> dict[str, Any]:
    """Empty where there is none that can be read."""
    try:
        return read_plain_json(file)
    except ZooError:
        return {}


def _tree(file: Path) -> dict[str, Any]:
    """Empty where there is none that can be read."""
    try:
        return read_plain_yaml(file)
    except ZooError:
        return {}


def _text(value: Any) -> str | None:
    """What may stand in a card: one line, and of a path its last name."""
    return portable_path(value) if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def _licence(front: Mapping[str, Any]) -> str | None:
    told = front.get("license")
    told = told[0] if isinstance(told, list) and len(told) == 1 else told
    return told if isinstance(told, str) and _LICENCE.fullmatch(told) else None


def _bases(front: Mapping[str, Any]) -> tuple[Base, ...]:
    """``base_model`` of a card: a repository of the Hub, or several; anything else, a path say, is none."""
    told = front.get("base_model")
    found = [str(name) for name in (told if isinstance(told, list) else [told]) if _is_repository(name)][:LONGEST]
    return (_of_repository(found[0], tuple(found[1:])),) if found else ()


def _is_repository(name: Any) -> bool:
    try:
        return isinstance(name, str) and "@" not in name and isinstance(parse(f"hf://{name}"), HubRepo)
    except UriError:
        return False


def _from_data(told: Any) -> tuple[Base, ...] | None:
    """What ``as_data`` wrote; None where it is nothing of the kind."""
    if not isinstance(told, list) or not all(isinstance(entry, dict) and _text(entry.get("name")) and _text(entry.get("kind")) for entry in told):
        return None
    return tuple(
        Base(
            str(_text(entry["name"])),
            str(_text(entry["kind"])),
            repo=entry["repo"] if _is_repository(entry.get("repo")) else None,
            licence=_licence({"license": entry.get("licence")}),
            origin=_text(entry.get("origin")),
            own=entry.get("own") is True,
            merged=tuple(name for name in entry.get("merged") or () if _is_repository(name)),
        )
        for entry in told[:LONGEST]
    )


def _front_matter(card: Path) -> dict[str, Any]:
    """Of a model card, every value a text; empty where it has none that can be read."""
    try:
        parts = read_text(card).split("---\n", 2)
        tree = yaml.load(parts[1], Loader=yaml.BaseLoader) if len(parts) == 3 and not parts[0] else None
    except (ZooError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _of_encoder(config: Mapping[str, Any]) -> tuple[Base, ...]:
    """Encoders that begin with what their library has trained."""
    model = config.get("model")
    encoder = model.get("encoder") if isinstance(model, Mapping) else None
    if not isinstance(encoder, Mapping) or encoder.get("name") not in PRETRAINED or str(encoder.get("weights")) != "pretrained":
        return ()
    return (Base(f"{encoder['name']}://{encoder.get('model')}", "the weights"),)
