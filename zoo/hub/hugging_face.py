"""What a repository of the Hugging Face Hub holds, and where its files are: the hub's own client asks, zoo's downloader fetches. Imports no torch.

HF_ENDPOINT names a mirror, HF_TOKEN or ``hf auth login`` gives a password, as everywhere.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from zoo.hub.uri import HubRepo, inside
from zoo.hub.wanted import Checksum, DownloadError, Link, Sum, UnreachableError, refuse_offline
from zoo.hub.weight_files import PICKLED

BUNDLES = ("config.yaml", "metrics.json", "README.md", "processor/*", "plots/*.png")
USED = (
    *BUNDLES,
    *("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "generation_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("modules.json", "sentence_bert_config.json", "[0-9]_Pooling/config.json"),
)
"""What is fetched of a repository whose files nobody has listed; pickles only where there are no safetensors."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository at a commit.

    Args:
        path: in the repository.
        size: in bytes.
        checksum: sha256 of large files, git's own of small ones.
    """

    path: str
    size: int
    checksum: Checksum


def link(source: HubRepo, path: str) -> Link:
    """Where a file of a repository is. Asks nobody."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    from zoo import __version__

    return Link(hf_hub_url(source.repo, path, revision=source.revision), build_hf_headers(library_name="zoo", library_version=__version__))


def listed(source: HubRepo, command: str) -> tuple[HubRepo, list[HubFile]]:
    """The repository at the commit that its revision stands for now, and those of its files that a model is made of.

    Args:
        source: the repository.
        command: that gets it where there is a network.

    Raises:
        OfflineError: where nothing may be asked.
        UnreachableError: where nobody answers at all.
        DownloadError: where the hub has no such repository or revision, or what answers is not the hub.
    """
    from zoo.hub.cache import cache_dir

    refuse_offline(str(source), None, cache_dir(), command)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        told = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        files = [found for entry in told.siblings or [] if (found := _file(entry)) is not None]
    except GatedRepoError as error:
        raise DownloadError(f"{source}: its owners want to be asked first\n  way out: on its page accept their terms, then `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"{source}: the repository has no revision {source.revision!r}") from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{source}: the hub has no such repository, or it is private\n  way out: look at its name; `hf auth login` for private ones"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        kind = UnreachableError if isinstance(error, ConnectionError | TimeoutError) else DownloadError
        raise kind(f"{source}: the hub does not answer: {_first(error)}\n  way out: try again; a mirror: HF_ENDPOINT=URL") from error
    except NOT_THE_HUBS as error:
        raise DownloadError(not_the_hubs(str(source), error)) from error
    except Exception as error:  # its client's own, whose package changes between versions
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "requests"):
            raise
        if not _silent(error):
            raise DownloadError(f"{source}: the hub cannot be asked: {_first(error)}\n  way out: see whether HF_ENDPOINT and the proxies are right") from error
        raise UnreachableError(f"{source}: the hub cannot be reached: {_first(error)}\n  way out: try again; a mirror: HF_ENDPOINT=URL") from error
    whole = any(file.path.endswith(".safetensors") for file in files)
    used = [file for file in files if _matches(file.path, USED if whole else (*USED, PICKLED))]
    if not used:
        raise DownloadError(f"{source}: has no model that zoo reads: it holds {', '.join(file.path for file in files[:8]) or 'no files'}")
    return HubRepo(source.repo, told.sha or source.revision), used


NOT_THE_HUBS = (ValueError, KeyError, TypeError, AttributeError)
"""What the hub's client raises for an answer that arrived and is not the hub's: no JSON, or JSON without what it looks for."""


def not_the_hubs(what: str, error: BaseException) -> str:
    """What to tell of an answer that is not the hub's.

    Args:
        what: was asked about.
        error: of the hub's client.
    """
    from huggingface_hub.constants import ENDPOINT

    return (
        f"{what}: what {urlsplit(ENDPOINT).netloc or ENDPOINT} answers is not the hub's ({type(error).__name__}: {_first(error)}); is that a proxy's page?\n"
        f"  way out: open {ENDPOINT} in a browser, log in to the network where it asks for that, and try again; a mirror: HF_ENDPOINT=URL"
    )


def _silent(error: BaseException) -> bool:
    """Whether nobody answered: a name without a host, a host that refuses or says nothing. By name, as its package changes."""
    return not {"NetworkError", "TimeoutException", "ConnectionError", "Timeout"}.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _file(entry: Any) -> HubFile | None:
    """None for what cannot be checked.

    Raises:
        ValueError: for a size or a checksum that is none; files are named by their checksum, so that a path in its place would lead out of the cache.
    """
    if entry.size is None or not inside(entry.rfilename):
        return None
    if entry.lfs is None and not entry.blob_id:
        return None
    kind, value, digits = (Sum.GIT, entry.blob_id, 40) if entry.lfs is None else (Sum.SHA256, entry.lfs.sha256, 64)
    if not isinstance(value, str) or re.fullmatch(rf"[0-9a-f]{{{digits}}}", value) is None:
        raise ValueError(f"{entry.rfilename} has the checksum {value!r}")
    if not isinstance(entry.size, int) or entry.size < 0:
        raise ValueError(f"{entry.rfilename} has the size {entry.size!r}")
    return HubFile(entry.rfilename, entry.size, Checksum(value, kind))


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
