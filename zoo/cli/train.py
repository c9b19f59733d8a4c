"""``zoo train``: ordinary Hydra on the outside, a checked run on the inside."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from zoo.cli.output import DONE, note, only_json, say, say_json
from zoo.cli.parser import OVERRIDES, CommandParser
from zoo.cli.run_dir import RunDir, new_run_dir
from zoo.config import RunConfig
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.compose import Composer

HELP = """usage: zoo train [options] [key=value | group=NAME | +key=value | ~key] ...

Trains a model, tests it and writes a bundle, all in one directory: runs/<name>/<time>/. Everything here is ordinary Hydra.

  zoo train                                        the defaults: a small network on real digits
  zoo train data=fashion_mnist model/encoder=vit_tiny model.encoder.depth=6
  zoo train optimizer.lr=0.003 data.batch_size=256 trainer.max_steps=1000 trainer.precision=bf16
  zoo train logger=[wandb,tensorboard] callback=early_stopping
  zoo train parallel.processes=2
  zoo train resume=runs/NAME/TIME                  go on from its last checkpoint
  zoo train resume=s3://bucket/runs/x              the same from its trainer.checkpoint_to, where its directory is gone
  zoo train rerun=runs/NAME/TIME seed=1            do it again, with changes
  zoo train init=BUNDLE init_skip=[head]           start from other weights

options
  -m, --multirun        a sweep: zoo train -m optimizer.lr=0.001,0.003 seed=0,1
  -c, --cfg WHICH       print the composed config (job, hydra or all) and do nothing; --resolve, -p/--package PART
  -i, --info [WHAT]     how Hydra composed it: all, config, defaults, defaults-tree, plugins, searchpath
  -cn, --config-name N  another primary config
  -cd, --config-dir D   one more folder of configs; ./conf is searched before zoo's own
  --hydra-help          Hydra's own options
  --json --import X --debug as for every command

`zoo list` shows the groups' options, `zoo show NAME` what they mean, `zoo check ...` tries a composition without data."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser("train", OVERRIDES)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--run", "-r", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"])
    parser.add_argument("--config-name", "-cn", default="train")
    parser.add_argument("--config-dir", "-cd")
    options = parser.parse_intermixed_args(list(arguments))
    if options.resolve and not options.cfg:
        raise ZooError("--resolve belongs to --cfg: zoo train --cfg job --resolve")
    if sum([options.run, options.multirun, options.cfg is not None, options.info is not None]) > 1:
        raise ZooError("only one of --run, --multirun, --cfg and --info at a time")
    return options


def run(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.help:
        say(HELP)
        return DONE
    from zoo.compose import Composer

    with Composer(options.config_name, options.config_dir) as composer:
        if options.cfg or options.info or options.hydra_help:
            _tell(composer, options)
            return DONE
        if options.multirun or composer.wants_multirun(options.overrides):
            from zoo.cli.sweep import sweep

            return sweep(composer, options.overrides, as_json=options.json)
        with only_json(options.json):
            result = composer.run_job(options.overrides, lambda config: start(config, options.overrides))
        if options.json and os.environ.get("RANK", "0") == "0":  # under torchrun every rank has the result
            say_json(result)
    return DONE


def _tell(composer: "Composer", options: argparse.Namespace) -> None:
    """What Hydra prints about a composition."""
    from hydra._internal.utils import get_args_parser

    from zoo.compose import opened

    hydra, name, overrides = composer.hydra, options.config_name, opened(options.overrides)
    if options.hydra_help:
        hydra_options = argparse.Namespace(overrides=overrides, resolve=False)
        composer.guard(overrides, lambda: hydra.hydra_help(config_name=name, args_parser=get_args_parser(), args=hydra_options))
    elif options.info:
        composer.guard(overrides, lambda: hydra.show_info(options.info, config_name=name, overrides=overrides))
    else:
        composer.guard(overrides, lambda: hydra.show_cfg(name, overrides, cfg_type=options.cfg, package=options.package, resolve=options.resolve))


# --- one run ----------------------------------------------------------------------------------------------------------------------


def start(config: RunConfig, overrides: Sequence[str], run_dir: Path | None = None) -> dict[str, Any]:
    """Check a config, make its directory, train, and give the result.

    Args:
        config: checked.
        overrides: as typed, for the record.
        run_dir: where a sweep wants its trial; the config's own otherwise.
    """
    from zoo.checks import check

    check(config)
    follow_torchrun()
    if under_torchrun():
        from zoo.parallel.launch import refuse_ranks_within_ranks

        refuse_ranks_within_ranks(config.parallel.processes)
    made = prepare(config, overrides, run_dir)
    try:
        if config.parallel.processes > 1:
            from zoo.parallel.launch import launch

            return launch(made.path, config.parallel.processes)
        from zoo.training.job import run_job

        return run_job(config, made.path)
    except ZooError:
        made.forget()
        raise


def follow_torchrun() -> None:
    from zoo.parallel.elastic import follow_launcher, job

    if job() is not None:
        follow_launcher()


def under_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def prepare(config: RunConfig, overrides: Sequence[str], run_dir: Path | None) -> RunDir:
    """The run's one directory, with its config and overrides; under torchrun rank 0 makes it for all, and may take it back."""
    if under_torchrun():
        from zoo.parallel.device import choose_device
        from zoo.parallel.launch import local_place, shared_run_dir

        device = choose_device(config.trainer.device, local_place()[1])
        mine: list[RunDir] = []

        def make() -> Path:
            mine.append(_prepare(config, overrides, run_dir))
            return mine[0].path

        path = shared_run_dir(make, device, config.parallel.timeout)
        return mine[0] if mine else RunDir(path)
    return _prepare(config, overrides, run_dir)


def _prepare(config: RunConfig, overrides: Sequence[str], run_dir: Path | None) -> RunDir:
    from zoo.parallel.elastic import begun_before, remember

    if (begun := begun_before(config, run_dir)) is not None:
        note(f"{begun}: started again, goes on")
        return RunDir(begun)
    made = _made(config, overrides, run_dir)
    remember(made.path)
    return made


def _made(config: RunConfig, overrides: Sequence[str], given: Path | None) -> RunDir:
    if config.run.resume:
        return _resumed(config, config.run.resume)
    if config.trainer.checkpoint_to is not None:
        from zoo.training.store import Store

        Store(config.trainer.checkpoint_to).check_new()
    run_dir = new_run_dir(config, given)
    config.save(run_dir.path / "config.yaml")
    (run_dir.path / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)), encoding="utf-8")
    return run_dir


def _resumed(config: RunConfig, place: str) -> RunDir:
    """The directory of a run that goes on; made anew from its store, where that is what is given."""
    from zoo.training.resume import accept_resume
    from zoo.training.store import is_url, run_files

    with run_files(place) as files:
        accept_resume(config, files)
        if not is_url(place):
            return RunDir(files)
        run_dir = new_run_dir(config)
        run_dir.copy(files)
    note(f"{place} goes on in {run_dir.path}")
    return run_dir
