"""Publishing: a model to the Hugging Face Hub, or to a mirror of it (HF_ENDPOINT), by the hub's own client."""

import tempfile
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, ZooError
from zoo.fetching import offline
from zoo.hub.bundle import CARD, CONFIG, FILES, METRICS, REPORT, WEIGHTS, open_bundle, portable_config
from zoo.hub.hugging_face import USED, not_the_hubs
from zoo.hub.source import SOURCE
from zoo.hub.uri import HubRepo, UriError, parse

REWRITABLE = (CARD, "*.json")
"""Of these, at a folder's top, folders of this machine are taken out; what else names one is not sent."""
OF_BUNDLES = (CONFIG, WEIGHTS, METRICS, CARD, REPORT, "processor/*", "plots/*.png")
"""What goes out of a bundle; nothing else that has come to lie in its folder does."""
OF_FOREIGN = tuple(pattern for pattern in USED if pattern not in OF_BUNDLES or pattern in (WEIGHTS, CARD))
"""What goes out of another library's layout: what zoo reads of one, and its card."""
LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")


class PushError(ZooError):
    """A model that could not be published; nothing of it is, or what the hub said is told."""


@dataclass(frozen=True)
class Sent:
    """What is uploaded of a folder.

    Args:
        folder: that it lies in.
        name: of the model.
        files: that go out, relative to the folder, with forward slashes.
        left_out: files that stay here.
        rewritten: what goes out in place of a file that names paths of this machine.
        portable: those paths, by file and key or line, and what they became.
    """

    folder: Path
    name: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    rewritten: dict[str, bytes] = field(default_factory=dict)
    portable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pushed:
    """A published model.

    Args:
        address: what others get it by.
        url: of its page.
        files: how many there are.
        left_out: files of the folder that were not uploaded.
        portable: paths of this machine that its files do not name any more, by file and key or line, and what they became.
    """

    address: str
    url: str
    files: int
    left_out: tuple[str, ...] = ()
    portable: dict[str, str] = field(default_factory=dict)


def push(folder: Path, to: str, *, private: bool = False, message: str | None = None) -> Pushed:
    """Upload a model's own files in one commit; hidden files, pickles and whatever else lies in its folder stay here,
    and so do the names of folders that its files tell.

    Args:
        folder: a bundle, or a run's directory; or a folder that ``zoo export --as`` wrote.
        to: ``hf://org/name``; the repository is made if it is not there. A revision is a branch, and is made too.
        private: whether a new repository is.
        message: of the commit.

    Raises:
        PushError: where the hub refuses, does not answer, or nothing may be sent.
        CheckpointError: where the folder is no complete bundle, or its weights are no safetensors.
    """
    target = destination(to)
    sent = publishable(folder)
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = _commit(target, sent, private=private, message=message)
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        hint = "log in: `hf auth login`, or HF_TOKEN with the right to write" if code in (401, 403) else "try again; HF_ENDPOINT names a mirror"
        raise PushError(f"{to}: the hub refuses: {' '.join(str(error).split())[:300]}\n  way out: {hint}") from error
    except OSError as error:
        raise PushError(f"{to}: the hub cannot be reached: {error}\n  way out: try again; HF_ENDPOINT names a mirror") from error
    except (JSONDecodeError, KeyError, TypeError) as error:
        raise PushError(not_the_hubs(to, error)) from error
    except ValueError as error:  # an answer that its client raises so: metadata of a card, a branch's name
        raise PushError(f"{to}: the hub refuses: {' '.join(str(error).split())[:300]}\n  way out: mend what it names") from error
    except Exception as error:  # its client's own, whose package changes between versions
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "requests", "huggingface_hub"):
            raise
        raise PushError(f"{to}: the hub cannot be reached: {' '.join(str(error).split())[:300]}\n  way out: try again; HF_ENDPOINT names a mirror") from error
    return Pushed(f"hf://{target.repo}@{commit.oid}", str(commit.commit_url), len(sent.files), sent.left_out, sent.portable)


def destination(to: str) -> HubRepo:
    """Where a model is pushed to. Asks nobody.

    Raises:
        PushError: where it is no branch of a repository of the hub, or nothing may be sent.
    """
    scheme, sign, rest = to.partition("://")
    if scheme != "hf" or not sign:
        shown = f"{scheme}://{rest.rpartition('@')[2]}" if sign else to  # a password in an address is nothing to show
        raise PushError(f"{shown}: models are pushed to a repository of the Hugging Face Hub, and to no other place\n  way out: {_on_the_hub(to)}")
    target = parse(to)
    assert isinstance(target, HubRepo)
    if "/" not in target.repo:
        raise PushError(f"{to}: whose? a repository that is pushed to is ORG/NAME\n  way out: hf://ORG/{target.repo}")
    if target.pinned:
        raise PushError(f"{to}: a commit never changes, so that nothing is pushed to one\n  way out: hf://{target.repo}, or a branch of it, @NAME")
    if (variable := offline()) is not None:
        raise PushError(f"{to}: {variable} is set, so that nothing is sent\n  way out: unset {variable}")
    return target


def _on_the_hub(to: str) -> str:
    """The address that was meant: ``org/name`` may be one without its beginning; other places name no repository."""
    try:
        target = parse(f"hf://{to}")
    except UriError:
        return "hf://ORG/NAME"
    return f"hf://{to}" if isinstance(target, HubRepo) and "/" in target.repo else "hf://ORG/NAME"


def publishable(folder: Path) -> Sent:
    """What is uploaded of a folder: the files that a bundle has; of a foreign layout, which has a config.json, those that zoo reads.

    Raises:
        CheckpointError: where the folder is no complete bundle, a file is a link that leads out of it, or weights are no safetensors.
        PushError: where a file that is not rewritten names a folder of this machine.
    """
    if (folder / "config.json").is_file() and (folder / WEIGHTS).is_file() and not (folder / CONFIG).is_file():
        sent = _sent(folder, folder.name, OF_FOREIGN)
    else:
        bundle = open_bundle(folder)
        assert all((bundle.path / name).is_file() for name in FILES)
        text, told = portable_config(bundle.path, outside=True)
        sent = _sent(bundle.path, bundle.name, OF_BUNDLES)
        told = {f"{CONFIG}: {key}": change for key, change in told.items()}
        sent = replace(sent, rewritten={CONFIG: text.encode()}, portable=told) if text is not None else sent
    from zoo.hub.weights import read_header

    for name in sent.files:
        if not (sent.folder / name).resolve().is_relative_to(sent.folder.resolve()):
            raise CheckpointError(f"{sent.folder / name}: a link that leads out of the folder would publish what lies there; refused\n  way out: copy the file")
        if name.endswith(".safetensors"):
            read_header(sent.folder / name)
    sent = _of_no_machine(sent)
    if CONFIG in sent.files:
        _check_what_is_sent(sent)
    return sent


def _of_no_machine(sent: Sent) -> Sent:
    """Without the folders of this machine in any text.

    Raises:
        PushError: for one in a file that is not rewritten, with its line.
    """
    from zoo.hub.files import MAX_TEXT
    from zoo.hub.portable import places, portable_text, sources_of

    folders = places(sent.folder, *([sent.folder.parent] if (sent.folder.parent / "overrides.yaml").is_file() else []))
    texts: dict[str, str] = {}
    for name in sent.files:
        if name == CONFIG or name.endswith((".safetensors", ".png")) or (sent.folder / name).stat().st_size > MAX_TEXT:
            continue
        try:
            texts[name] = (sent.folder / name).read_bytes().decode()
        except UnicodeDecodeError:
            continue
    sources = sources_of(texts.get(REPORT, ""))
    rewritten, told = dict(sent.rewritten), dict(sent.portable)
    for name, text in texts.items():
        after, changes = portable_text(text, folders, sources if name in (CARD, REPORT) else ())
        if not changes:
            continue
        line, change = next(iter(changes.items()))
        if "/" in name or not any(fnmatchcase(name, pattern) for pattern in REWRITABLE):
            raise PushError(
                f"{sent.folder / name}: line {line} names {change.partition(' -> ')[0]}, a folder of this machine, for everybody to read; nothing is sent\n"
                "  way out: take it out of the file"
            )
        rewritten[name] = after.encode()
        told |= {f"{name}: line {line}": change for line, change in changes.items()}
    return replace(sent, rewritten=rewritten, portable=told)


def _check_what_is_sent(sent: Sent) -> None:
    """Whether a bundle is still one with the files that go out in place of its own; tensors, which are as they were, are not copied.

    Raises:
        CheckpointError: where it is none.
    """
    if not sent.rewritten:
        return
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        for name in FILES:
            (Path(scratch) / name).parent.mkdir(exist_ok=True)
            (Path(scratch) / name).write_bytes(b"" if name == WEIGHTS else sent.rewritten.get(name) or (sent.folder / name).read_bytes())
        if open_bundle(scratch).spec != open_bundle(sent.folder).spec:
            raise CheckpointError(f"{sent.folder / CONFIG}: without the folders of this machine its spec would be another; nothing is sent")


def _sent(folder: Path, name: str, patterns: tuple[str, ...]) -> Sent:
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SOURCE]
    hidden = {path.as_posix() for path in found if any(part.startswith(".") for part in path.parts)}
    files = tuple(text for path in found if (text := path.as_posix()) not in hidden and any(fnmatchcase(text, pattern) for pattern in (*patterns, *LICENCES)))
    return Sent(folder, name, files, tuple(path.as_posix() for path in found if path.as_posix() not in files))


def _commit(target: HubRepo, sent: Sent, *, private: bool, message: str | None) -> Any:
    """Make the repository and the branch where they are not there, and one commit of exactly these files."""
    from huggingface_hub import CommitOperationAdd, HfApi

    from zoo import __version__

    api = HfApi(library_name="zoo", library_version=__version__)
    api.create_repo(target.repo, private=private or None, exist_ok=True)
    if target.revision != "main" and not target.revision.startswith("refs/"):  # those are the hub's own: of pull requests
        api.create_branch(target.repo, branch=target.revision, exist_ok=True)
    return api.create_commit(
        target.repo,
        [CommitOperationAdd(path_in_repo=name, path_or_fileobj=sent.rewritten.get(name, sent.folder / name)) for name in sent.files],
        revision=target.revision,
        commit_message=message or f"{sent.name}, by zoo {__version__}",
    )
