"""Composition by Hydra, in zoo's words (R2, R14, R24)."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from zoo.compose import OPEN, compose, override_of
from zoo.errors import ConfigError, ZooError
from zoo.registry import DATASETS, KINDS
from zoo.settings import GroupSettings, LoaderSettings, LoraSettings, ModelSettings, ParallelSettings, RunSettings, TrainerSettings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def test_defaults_come_from_signatures_and_settings() -> None:
    config = compose([])
    assert config.trainer == TrainerSettings()
    assert config.loader == LoaderSettings()
    assert config.data == {"name": "digits"} | {option.name: option.default for option in DATASETS.schema("digits").options}


def test_groups_inside_and_beside() -> None:
    config = compose(
        [
            "data=table",
            "data.path=x.csv",
            "data.target=y",
            "data/tokenizer=byte",
            "data/augment=[token_dropout]",
            "logger=[wandb,tensorboard]",
            "logger.wandb.project=p",
        ]
    )
    assert config.data["tokenizer"]["name"] == "byte"
    assert list(config.augment) == ["token_dropout"]
    assert list(config.loggers) == ["wandb", "tensorboard"]
    assert config.loggers["wandb"]["project"] == "p"
    assert compose(["data=table", "data.path=x.csv", "data.target=y"]).data["tokenizer"] is None


def test_own_conf_is_searched_first() -> None:
    write("conf/model/encoder/cnn_tiny.yaml", "defaults: [mlp, _self_]\n")
    write("conf/trainer/quick.yaml", "defaults: [default, _self_]\nmax_steps: 7\n")
    config = compose(["trainer=quick", "model/encoder=cnn_tiny"])
    assert config.encoder["name"] == "mlp"
    assert config.trainer.max_steps == 7


def test_search_path_and_config_dir() -> None:
    write("more/trainer/quick.yaml", "defaults: [default, _self_]\nmax_steps: 7\n")
    assert compose(["trainer=quick", f"hydra.searchpath=[file://{Path.cwd()}/more]"]).trainer.max_steps == 7
    assert compose(["trainer=quick"], config_dir="more").trainer.max_steps == 7
    with pytest.raises(ZooError, match="there is no such folder"):
        compose([], config_dir="nowhere")


def test_interpolations_of_the_user_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SEED", "7")
    config = compose(["seed='${oc.decode:${oc.env:MY_SEED}}'", "data.eval_batch_size=${data.batch_size}"])
    assert config.run.seed == 7
    assert config.loader.eval_batch_size == 64


def test_origin_is_the_file_or_the_override() -> None:
    """R2: a wrong key is traced to where it was written."""
    write("conf/experiment/mine.yaml", "# @package _global_\ntrainer:\n  max_step: 3\n")
    with pytest.raises(ConfigError) as told:
        compose(["experiment=mine"])
    assert told.value.origin is not None
    assert told.value.origin.endswith("conf/experiment/mine.yaml")
    with pytest.raises(ConfigError, match=re.escape("from: the override +trainer.max_step=3")):
        compose(["+trainer.max_step=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder=vit", "with a slash: model/encoder=vit"),
        ("trainer/max_steps=5", "a dot for a single option: trainer.max_steps=5"),
        ("encoder=vit", "model/encoder=vit"),
        ("max_steps=5", "trainer.max_steps=5"),
        ("lr=5", "optimizer.lr=5"),
        ("model.encoder.widthss=1", "did you mean 'model.encoder.widths'?"),
        ("model/encoder=vitt", "did you mean 'vit'"),
        ("data/tokenizer=byte", "choose one that does: data=corpus|table"),
        ("logger.tensorboard.folder=x", "choose it first: logger=[tensorboard]"),
        ("logger.wandb.projekt=x", "did you mean 'logger.wandb.project'?"),  # of one that is chosen
        ("seed=1,2", "zoo train -m seed=1,2"),
        ("optimizer=null", "choose one: optimizer=NAME"),
        ("+model/encoder=vit", "model/encoder=NAME, without a +"),
        ("name=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("hydra.run.dirr=x", "did you mean 'hydra.run.dir'?"),
        ("optimizer.lr", "no key=value"),
        ("optimizer.lr=[", "cannot be read"),
        ("trainer={max_step: 3}", "trainer.max_step: there is no such key"),
        ("trainer={max_step: 3}", "did you mean 'trainer.max_steps'"),
        ("inti_rename={a: b}", "did you mean 'init_rename'?"),
    ],
)
def test_hydras_errors_are_told_with_the_way_out(override: str, message: str) -> None:
    """R24."""
    with pytest.raises(ConfigError) as told:
        compose([override])
    assert message in str(told.value)
    assert "way out" in str(told.value)


def saved(tmp_path: Path, *overrides: str) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    compose(overrides).save(folder / "config.yaml")
    return folder


def test_rerun_takes_the_saved_config(tmp_path: Path) -> None:
    """R14: the same hash; overrides and groups on top."""
    folder = saved(tmp_path, "model/encoder=vit", "model.encoder.patch_size=4", "seed=3")
    assert compose([f"rerun={folder}"]).hash() == RunHash(folder)
    changed = compose([f"rerun={folder}", "seed=4", "model/encoder=mlp_tiny", "trainer.max_steps=5", "++data.workers=1", "logger=[tensorboard]"])
    assert (changed.run.seed, changed.encoder["name"], changed.trainer.max_steps, changed.loader.workers) == (4, "mlp", 5, 1)
    assert list(changed.loggers) == ["tensorboard"]
    assert changed.optimizer == compose([f"rerun={folder}"]).optimizer


def RunHash(folder: Path) -> str:
    from zoo.config import RunConfig

    return RunConfig.load(folder / "config.yaml").hash()


def test_drift_lists_every_key(tmp_path: Path) -> None:
    """R14: options that have gone, and values that no longer fit."""
    folder = saved(tmp_path)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    tree["optimizer"]["gone"] = 1
    tree["model"]["encoder"]["also_gone"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as told:
        compose([f"rerun={folder}"])
    assert "optimizer.gone" in str(told.value)
    assert "model.encoder.also_gone" in str(told.value)
    assert f"from: {folder}/config.yaml" in str(told.value)


def test_a_saved_config_is_not_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1: what stands in a run's config is never an interpolation, even one that Hydra would know."""
    folder = saved(tmp_path)
    text = (folder / "config.yaml").read_text().replace("name: digits", "name: ${oc.env:SECRET}")
    (folder / "config.yaml").write_text(text)
    monkeypatch.setenv("SECRET", "told")
    with pytest.raises(ConfigError, match="is an interpolation") as error:
        compose([f"rerun={folder}"])
    assert "told" not in str(error.value)


def test_rerun_errors(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no config\.yaml"):
        compose([f"rerun={tmp_path}"])
    with pytest.raises(ConfigError, match="exclude each other"):
        compose([f"rerun={folder}", f"resume={folder}"])
    with pytest.raises(ConfigError, match=re.escape("optimizer.learning_rate")):
        compose([f"rerun={folder}", "++optimizer.learning_rate=1"])


def test_the_last_of_equal_overrides_is_named() -> None:
    assert override_of("trainer.max_steps", ["trainer.max_steps=5", "trainer.max_steps=-3", "seed=1"]) == "the override trainer.max_steps=-3"


@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize("line", ["init_rename={encoder.a: head}", "init_rename.encoder.a=head", "init_rename.encoder={a: head}"])
def test_keys_of_open_mappings_need_no_plus(tmp_path: Path, sign: str, line: str) -> None:
    assert compose([sign + line]).run.init_rename == {"encoder.a": "head"}
    assert compose([sign + line, "init_rename.b=c"]).run.init_rename == {"encoder.a": "head", "b": "c"}
    assert override_of("init_rename.encoder.a", [sign + line]) == f"the override {sign}{line}"
    folder = saved(tmp_path, "init_rename.encoder.a=none")
    again = compose([f"rerun={folder}", sign + line]).run.init_rename
    assert again == {"encoder.a": "head"}


def test_other_open_mappings() -> None:
    assert compose(["optimizer.overrides.encoder.patches.lr_scale=2"]).groups.overrides == {"encoder.patches": {"lr_scale": 2.0}}
    assert compose(["optimizer=timm", "optimizer.optimizer=lion", "optimizer.options.foreach=true"]).optimizer["options"] == {"foreach": True}


def test_a_saved_prefix_keeps_what_an_override_does_not_name(tmp_path: Path) -> None:
    folder = saved(tmp_path, "optimizer.overrides={encoder.patches: {lr_scale: 2, weight_decay: 0}}")
    again = compose([f"rerun={folder}", "optimizer.overrides.encoder.patches.lr_scale=3"])
    assert again.groups.overrides == {"encoder.patches": {"lr_scale": 3.0, "weight_decay": 0.0}}


def test_every_open_mapping_is_known() -> None:
    """Settings and options whose keys are the user's: a new one has to be in ``OPEN``, or its overrides would want a plus."""
    options = {
        f"{registry.group.replace('/', '.')}.{option.name}"
        for registry in KINDS.values()
        for name in registry.names()
        for option in registry.schema(name).options
        if option.type.form == "dict" and not option.required
    }
    places = {"": RunSettings(), "data.": LoaderSettings(), "model.": ModelSettings(), "model.lora.": LoraSettings(), "optimizer.": GroupSettings()}
    places |= {"trainer.": TrainerSettings(), "parallel.": ParallelSettings()}
    settings = {prefix + field.name for prefix, of in places.items() for field in fields(of) if isinstance(getattr(of, field.name), dict)}
    assert options | settings == set(OPEN)


@pytest.mark.parametrize("line", ["trainer={seed: 1}", "data={x: 1}", "model={encoderr: 1}", "trainer.max_steps={a: 1}", "seed.x=1", "logger={wandb: {x: 1}}"])
def test_no_error_suggests_what_was_typed(line: str) -> None:
    with pytest.raises(ConfigError) as told:
        compose([line])
    key = line.partition("=")[0]
    assert f"did you mean '{key}'" not in str(told.value)
    assert f"or '{key}'" not in str(told.value)


def test_hydras_directory_of_one_run_is_refused() -> None:
    """The run would go elsewhere, and an empty folder be left."""
    for typed in ("hydra.run.dir=runs/a", "hydra.run={dir: runs/a}"):
        with pytest.raises(ConfigError, match=r"(?s)hydra.run.dir: 'runs/a'.*way out 1: run_dir=runs/a") as caught:
            compose([typed])
        assert caught.value.path == "hydra.run.dir"
    assert not Path("runs").exists()
    compose(["hydra.run.dir=.", "hydra.sweep.dir=elsewhere"])


def test_ways_out_of_what_a_constructor_refuses_are_one_list() -> None:
    config = compose(["data=table", "data.path=x.csv", "data.target=y", "data/tokenizer=wordpiece", "data.tokenizer.path=nosuch", "data.text=x"])
    with pytest.raises(ConfigError, match=r"path=nosuch: 'nosuch' is neither a folder") as caught:
        DATASETS.build(config.data, "data")
    assert caught.value.path == "data.tokenizer.path"
    assert len(caught.value.ways_out) == 2
    assert re.findall(r"way out.*?:", str(caught.value)) == ["way out 1:", "way out 2:"]
