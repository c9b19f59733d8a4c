"""Models that their own libraries know by name. timm's lie on the hub in timm's layout; imports timm or torchvision only when asked for theirs."""

import re

from zoo.errors import did_you_mean
from zoo.hub.cache import Cache
from zoo.hub.download import Downloader
from zoo.hub.made import key_of, make
from zoo.hub.pull import Pulled, pull
from zoo.hub.repair import intact
from zoo.hub.uri import LibraryModel
from zoo.hub.wanted import Checksum, DownloadError, Link, Sum, Teller, Wanted


def pull_library(source: LibraryModel, cache: Cache) -> Pulled:
    """As ``zoo.hub.pull.pull``.

    Raises:
        DownloadError: for a name that the library does not know, or whose weights it does not have.
    """
    match source.library:
        case "timm":
            return pull(f"hf://{timm_repository(source)}", cache=cache)
        case "torchvision":
            return pull_torchvision(source, cache)
    raise DownloadError(f"{source}: the models of {source.library} are not read yet\n  way out: hf:// has most of them")


def pull_torchvision(source: LibraryModel, cache: Cache) -> Pulled:
    """``torchvision://resnet18``, or ``torchvision://resnet50.IMAGENET1K_V1``. The file's name tells the beginning of its sha256."""
    from zoo.hub.convert.torchvision import entry

    model, _, weights = source.name.partition(".")
    known = entry(model, weights or "DEFAULT")
    found = re.search(r"-([0-9a-f]{8,64})\.pth$", known.url)
    if found is None:
        raise DownloadError(f"{source}: the name of its file, {known.url}, tells no checksum")
    command = f"zoo pull {source}"
    for kept in cache.entries():
        if kept.source == known.url and intact(kept.folder, cache, command):
            return Pulled(str(source), kept.folder, kept.source)
    wanted = Wanted(str(source), Checksum(found[1], Sum.BEGINNING), (Link(known.url),), None, command, told_by=Teller.NAME)
    with Downloader(cache) as downloader:
        blob = downloader.get(wanted)
    options = {"model": model, "weights": known.name}
    folder = cache.model(str(source), key_of({"weights.pth": blob.name}, "torchvision", options))
    if not intact(folder, cache, command):
        make(str(source), folder, {"weights.pth": blob}, source=known.url, read_by="torchvision", options=options)
    return Pulled(str(source), folder, known.url)


def timm_repository(source: LibraryModel) -> str:
    """Where timm keeps the weights of a model."""
    import timm

    name = source.name.partition(".")[0]
    if not timm.is_model(name):
        raise DownloadError(f"{source}: timm {timm.__version__} has no such model; {did_you_mean(name, timm.list_models())[:300]}")
    known = timm.list_pretrained(f"{name}.*") + timm.list_pretrained(name)
    found = timm.get_pretrained_cfg(source.name) if "." not in source.name or source.name in known else None
    if found is None or not found.hf_hub_id:
        raise DownloadError(f"{source}: timm has no such weights; it has {', '.join(known) or 'none of this architecture'}")
    repository = str(found.hf_hub_id)
    return f"{repository}{'' if not repository.endswith('/') else source.name}"
