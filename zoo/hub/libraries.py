"""Models that their own libraries know by name. timm's lie on the hub in timm's layout; imports timm or torchvision only when asked for theirs."""

from zoo.errors import did_you_mean
from zoo.hub.cache import Cache
from zoo.hub.download import DownloadError
from zoo.hub.pull import Pulled, pull
from zoo.hub.uri import LibraryModel


def pull_library(source: LibraryModel, cache: Cache) -> Pulled:
    """As ``zoo.hub.pull.pull``.

    Raises:
        DownloadError: for a name that the library does not know, or whose weights it does not have.
    """
    match source.library:
        case "timm":
            return pull(f"hf://{timm_repository(source)}", cache=cache)
    raise DownloadError(f"{source}: {source.library}'s own models are not read yet\n  way out: timm has most of torchvision's as timm://NAME.tv_in1k")


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
