"""Publishing: a bundle to the Hugging Face Hub, or to a mirror of it (HF_ENDPOINT), by the hub's own client."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.hub.bundle import FILES, Bundle, open_bundle
from zoo.hub.cache import SOURCE
from zoo.hub.uri import HubRepo, parse
from zoo.hub.wanted import offline


class PushError(ZooError):
    """A model that could not be published; nothing of it is, or what the hub said is told."""


@dataclass(frozen=True)
class Pushed:
    """A published model.

    Args:
        address: what others get it by.
        url: of its page.
        files: how many there are.
    """

    address: str
    url: str
    files: int


def push(folder: Path, to: str, *, private: bool = False, message: str | None = None) -> Pushed:
    """Upload a bundle in one commit.

    Args:
        folder: a bundle, or a run's directory; or a folder that ``zoo export --as`` wrote.
        to: ``hf://org/name``; the repository is made if it is not there. A revision is a branch.
        private: whether a new repository is.
        message: of the commit.

    Raises:
        PushError: where the hub refuses, does not answer, or nothing may be sent.
        CheckpointError: where the folder is no complete bundle.
    """
    target = parse(to)
    if not isinstance(target, HubRepo) or "/" not in target.repo:
        raise PushError(f"{to}: models are pushed to a repository of the hub\n  way out: hf://ORG/NAME")
    if (variable := offline()) is not None:
        raise PushError(f"{to}: {variable} is set, so that nothing is sent\n  way out: unset {variable}")
    place, what = publishable(folder)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from zoo import __version__

    api = HfApi(library_name="zoo", library_version=__version__)
    try:
        api.create_repo(target.repo, private=private or None, exist_ok=True)
        commit: Any = api.upload_folder(
            repo_id=target.repo,
            folder_path=place,
            revision=None if target.revision == "main" else target.revision,
            commit_message=message or f"{what}, by zoo {__version__}",
            ignore_patterns=[SOURCE, ".*"],
        )
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        hint = "log in: `hf auth login`, or HF_TOKEN with the right to write" if code in (401, 403) else "try again; HF_ENDPOINT names a mirror"
        raise PushError(f"{to}: the hub refuses: {' '.join(str(error).split())[:300]}\n  way out: {hint}") from error
    except OSError as error:
        raise PushError(f"{to}: the hub cannot be reached: {error}\n  way out: try again; HF_ENDPOINT names a mirror") from error
    except Exception as error:  # its client's own, whose package changes between versions
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "requests", "huggingface_hub"):
            raise
        raise PushError(f"{to}: the hub cannot be reached: {' '.join(str(error).split())[:300]}\n  way out: try again; HF_ENDPOINT names a mirror") from error
    files = sum(1 for path in place.rglob("*") if path.is_file() and path.name != SOURCE)
    return Pushed(f"hf://{target.repo}@{commit.oid}", str(commit.commit_url), files)


def publishable(folder: Path) -> tuple[Path, str]:
    """What is uploaded of a folder, and its name. A foreign layout has a config.json, and no pickles go out."""
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file() and not (folder / "config.yaml").is_file():
        return folder, folder.name
    bundle: Bundle = open_bundle(folder)
    assert all((bundle.path / name).is_file() for name in FILES)
    return bundle.path, bundle.name
