"""What leaves the machine names no folder of it: configs as they are published, pushed and exported, and commands in cards."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.bundles import LABELS, config, make_bundle, processor
from zoo.build import build_model
from zoo.hub.bundle import CONFIG, load_bundle, portable_config, write_bundle
from zoo.hub.export import export_bundle
from zoo.hub.portable import on_this_machine, portable, portable_path, portable_word
from zoo.hub.push import PushError, publishable
from zoo.hub.records import records
from zoo.inference.evaluate import override

SHIPPED = {"tweet_lstm": "data/tweets/tweets.csv", "bible_lm": "data/bible/passages.jsonl"}


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "sets"))


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cases = {
        f"{tmp_path}/sets/tweets/tweets.csv": "data/tweets/tweets.csv",
        f"{tmp_path}/sets/../sets/x": "data/x",
        f"{tmp_path}/setsuna/x.csv": "x.csv",
        "/home/me/reviews.csv": "reviews.csv",
        "~/reviews.csv": "reviews.csv",
        r"C:\Users\me\reviews.csv": "reviews.csv",
        r"\\srv\me\reviews.csv": "reviews.csv",
        "file:///home/me/reviews.csv": "reviews.csv",
        "~nobody-of-that-name/run": "run",
        f"{tmp_path}/sets": "data",
        **{text: text for text in ("/", "|", "a/b", "data/x", "hf://org/name", "s3://bucket/x", "1/2", "", "minilm_l6")},
    }
    assert {text: portable_path(text) for text in cases} == cases
    assert portable_path("/home/me/reviews.csv", outside=False) == "/home/me/reviews.csv"
    assert portable({"a": [{"path": "/x/y"}, 1], "c": None}) == ({"a": [{"path": "y"}, 1], "c": None}, {"a[0].path": "/x/y -> y"})
    words = {
        f"data.path={tmp_path}/sets/t.csv": "data.path=data/t.csv",
        "data.files=[/home/me/a,'/b/c d']": "data.files=[a,'c d']",
        "data.path=/home/me/My Data/rows.csv": "data.path=rows.csv",
        "data.path=/home/me/a(1)/b.csv": "data.path=b.csv",
        "data.path=file:///home/me/x": "data.path=x",
        r"data.path=\\srv\me\x.csv": "data.path=x.csv",
        "+data.test_path=/a/b,/c/d": "+data.test_path=b,d",
        "init=~bob/run": "init=run",
        "data={root:/home/me/x,labels:[/m/09x0r]}": "data={root:x,labels:[/m/09x0r]}",
        "data.pattern='^/[a-z]+'": "data.pattern='^/[a-z]+'",
        "init=hf://org/name@main": "init=hf://org/name@main",
        "data.path=../mine/rows.csv": "data.path=../mine/rows.csv",
        "optimizer.lr=1e-3": "optimizer.lr=1e-3",
    }
    assert {word: portable_word(word) for word in words} == words


@pytest.mark.parametrize("name", SHIPPED)
def test_publishing_again_writes_what_is_shipped(name: str, tmp_path: Path) -> None:
    """A run's config has the path that ZOO_DATA made of the preset's; published, it is byte for byte the one in model_cards and in the record."""
    record = records()[name]
    assert record.bundle is not None
    shipped = (record.bundle / CONFIG).read_text()
    assert f"path: {SHIPPED[name]}\n" in shipped
    made = Path(shutil.copytree(record.bundle, tmp_path / "made"))
    (made / CONFIG).write_text(shipped.replace(SHIPPED[name], f"{tmp_path}/sets/{SHIPPED[name].removeprefix('data/')}"))
    text, told = portable_config(made, outside=True)
    assert text == shipped
    assert hashlib.sha256(text.encode()).hexdigest() == record.files[CONFIG].sha256
    assert list(told) == ["data.path"]
    assert portable_config(record.bundle, outside=True) == (None, {})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One whose data lies in two places of this machine."""
    settings, codecs = (
        config("image", data={"name": "image_folder", "root": str(tmp_path / "sets" / "birds"), "batch_size": 4, "augment": {}}),
        processor("image"),
    )
    write_bundle(tmp_path / "bundle", config=settings, processor=codecs, model=build_model(settings, codecs.spec), metrics={"test/accuracy": 0.5})
    tree = yaml.safe_load((tmp_path / "bundle" / CONFIG).read_text())
    tree["data"]["split_by"] = "/home/me/secret/rule.csv"
    (tmp_path / "bundle" / CONFIG).write_text(yaml.safe_dump(tree))
    return tmp_path / "bundle"


def test_what_is_pushed_names_no_folder(bundle: Path, tmp_path: Path) -> None:
    sent = publishable(bundle)
    tree = yaml.safe_load(sent.rewritten[CONFIG])["data"]
    assert (tree["root"], tree["split_by"]) == ("data/birds", "rule.csv")
    assert str(tmp_path).encode() not in sent.rewritten[CONFIG]
    assert set(sent.portable) == {"config.yaml: data.root", "config.yaml: data.split_by"}
    assert str(tmp_path) in (bundle / CONFIG).read_text()  # what lies here stays as it is


def test_what_is_exported_finds_its_data_again(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below ZOO_DATA, wherever that is now; a path elsewhere is the user's own, on the user's own machine."""
    export_bundle(str(bundle), tmp_path / "copy")
    tree = yaml.safe_load((tmp_path / "copy" / CONFIG).read_text())
    assert (tree["data"]["root"], tree["data"]["split_by"]) == ("data/birds", "/home/me/secret/rule.csv")
    assert on_this_machine("data/birds") == "data/birds"  # which is what is then told as missing
    (tmp_path / "moved" / "birds").mkdir(parents=True)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "moved"))
    published = {key: value for key, value in tree.items() if key not in ("format", "zoo", "plugins", "spec")}
    published["data"] = {key: value for key, value in published["data"].items() if key != "split_by"}
    assert override(published, []).data["root"] == str(tmp_path / "moved" / "birds")


def test_labels_are_no_paths(tmp_path: Path) -> None:
    """AudioSet's labels begin with a stroke; what is sent is a bundle that loads."""
    made = make_bundle("image", tmp_path / "bundle")
    for name in (CONFIG, "processor/processor.json"):
        text = (made / name).read_text()
        assert LABELS[2] in text
        (made / name).write_text(text.replace(LABELS[2], "/m/09x0r"))
    tree = yaml.safe_load((made / CONFIG).read_text())
    tree["data"] |= {"path": "/elsewhere/rows.csv", "keep": ["/m/09x0r"]}
    (made / CONFIG).write_text(yaml.safe_dump(tree))
    sent = publishable(made)
    (made / CONFIG).write_bytes(sent.rewritten[CONFIG])
    assert "/m/09x0r" in str(load_bundle(made).bundle.spec.targets[0])
    assert list(sent.portable) == ["config.yaml: data.path"]
    assert yaml.safe_load(sent.rewritten[CONFIG])["data"]["keep"] == ["/m/09x0r"]


def test_no_text_that_is_sent_names_a_folder(tmp_path: Path) -> None:
    """A bundle that was converted from a folder tells it in its name, its card and its report; where it cannot be taken out, file and line are told."""
    made, place = make_bundle("image", tmp_path / "bundle"), "/elsewhere/My Models/theirs"
    tree = yaml.safe_load((made / CONFIG).read_text())
    (made / CONFIG).write_text(yaml.safe_dump(tree | {"name": place}))
    (made / "README.md").write_text(f"# {place}\n\nthe tensors of {place} as zoo's, in {made}/x.\n")
    (made / "conversion.json").write_text(json.dumps({"source": place, "tensors": {}}))
    sent = publishable(made)
    assert sent.rewritten["README.md"].decode() == "# theirs\n\nthe tensors of theirs as zoo's, in x.\n"
    assert json.loads(sent.rewritten["conversion.json"])["source"] == "theirs"
    assert yaml.safe_load(sent.rewritten[CONFIG])["name"] == "theirs"
    assert list(sent.portable) == ["config.yaml: name", "README.md: line 1", "README.md: line 3", "conversion.json: line 1"]
    (made / "LICENSE").write_text(f"mine\nsee {tmp_path}/sets/terms.txt\n")
    with pytest.raises(PushError, match=r"LICENSE: line 2 names .*/sets/terms\.txt"):
        publishable(made)


def test_without_zoo_data_no_folder_is_its(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./data is another folder wherever a command is given, so that an absolute path below it is kept; what ``$ZOO_DATA`` itself became is found again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()
    assert on_this_machine(portable_path(str(tmp_path / "sets"))) == str(tmp_path / "sets")
    monkeypatch.delenv("ZOO_DATA")
    assert portable_path(f"{tmp_path}/data/mine.csv", outside=False) == f"{tmp_path}/data/mine.csv"


def test_the_tool_that_publishes_writes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo.hub.card
    from tools import publish_checkpoint

    made = make_bundle("image", tmp_path / "run" / "bundle", metrics={"test/accuracy": 0.5})
    tree = yaml.safe_load((made / CONFIG).read_text())
    tree["data"]["root"] = str(tmp_path / "sets" / "birds")
    (made / CONFIG).write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(publish_checkpoint, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(zoo.hub.card, "write_card", lambda *_, **__: None)
    (tmp_path / "repository" / "conf" / "pretrained").mkdir(parents=True)
    words = ["--name", "x", "--figure", "test/accuracy"]
    for option in ("summary", "task", "modality", "licence", "origin", "protocol", "use", "limits"):
        words += [f"--{option}", "y"]
    monkeypatch.setattr(sys, "argv", ["publish_checkpoint.py", str(tmp_path / "run"), *words])
    assert publish_checkpoint.main() == 0
    published = tmp_path / "repository" / "model_cards" / "x" / CONFIG
    assert yaml.safe_load(published.read_text())["data"]["root"] == "data/birds"
    record = yaml.safe_load((tmp_path / "repository" / "conf" / "pretrained" / "x.yaml").read_text())
    assert record["files"][CONFIG]["sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()
