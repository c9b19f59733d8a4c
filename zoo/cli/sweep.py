"""``zoo train -m``: Hydra's sweepers and launchers, with each trial on its own: one that fails stops no other."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from zoo.cli.output import DONE, OURS, USERS, error_tree, note, only_json, report, say, say_json, table
from zoo.errors import ConfigError, ZooError
from zoo.settings import RunSettings

if TYPE_CHECKING:
    from zoo.compose import Composer


class Trial:
    """What one job of a sweep does; it travels to launchers' processes, so it holds plain values only."""

    def __init__(self, config_name: str, config_dir: str | None) -> None:
        self.config_name, self.config_dir = config_name, config_dir

    def __call__(self, job: DictConfig) -> Any:
        from zoo.cli.train import start
        from zoo.compose import override_of
        from zoo.config import RunConfig
        from zoo.plugins import import_from_environment

        import_from_environment()
        hydra = HydraConfig.get()
        overrides = [str(line) for line in OmegaConf.to_container(hydra.overrides.task) or []]
        tree = OmegaConf.to_container(job, resolve=True)
        assert isinstance(tree, dict)
        if tree.get("run_dir"):
            raise ConfigError(
                "run_dir", "the trials of a sweep have a directory each", "leave run_dir out: they lie in runs/<name>/<time>/<number>", "hydra.sweep.dir=DIR"
            )
        if tree.get("resume") or tree.get("rerun"):
            raise ConfigError("resume" if tree.get("resume") else "rerun", "a saved run is gone on with or done again alone, not in a sweep", "leave out -m")
        config = RunConfig.from_dict({str(key): value for key, value in tree.items()}, lambda path: override_of(path, overrides))
        return start(config, overrides, Path(hydra.runtime.output_dir))


class Recorder:
    """Stands before a launcher and keeps what its jobs returned."""

    def __init__(self, launcher: Any, composer: "Composer", *, keep_going: bool) -> None:
        self.launcher, self.composer, self.keep_going = launcher, composer, keep_going
        self.done: list[JobReturn] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        stores = set()
        for overrides in job_overrides:
            config = self.composer.compose(overrides)
            check_name(config.get("name"))  # before directories are made and log handlers set up
            tree: Any = OmegaConf.to_container(config, resolve=False)
            trainer = tree.get("trainer")
            url = trainer.get("checkpoint_to") if isinstance(trainer, dict) else None
            if isinstance(url, str) and url in stores and "${" not in url:
                raise ConfigError(
                    "trainer.checkpoint_to", f"{url} is one place, and each trial needs its own", f"trainer.checkpoint_to='{url}/${{hydra:job.num}}'"
                )
            stores |= {url} if url else set()
        jobs: Sequence[JobReturn] = self.launcher.launch(job_overrides, initial_job_idx)
        self.done += jobs
        for job in jobs if self.keep_going else []:
            if job.status is JobStatus.FAILED:  # the basic sweeper would stop at it; the others decide for themselves
                told = JobReturn(overrides=job.overrides, cfg=job.cfg, hydra_cfg=job.hydra_cfg, working_dir=job.working_dir, task_name=job.task_name)
                told.status, told._return_value = JobStatus.FAILED, job._return_value
                self.done[self.done.index(job)] = told
                job.status, job._return_value = JobStatus.COMPLETED, None
        return jobs


def sweep(composer: "Composer", overrides: Sequence[str], *, as_json: bool) -> int:
    """Run every trial, tell how each ended, and give the worst exit code."""
    overrides = [*overrides, *([] if any(line.lstrip("+").startswith("hydra.mode=") for line in overrides) else ["hydra.mode=MULTIRUN"])]
    config = composer.compose(overrides, multirun=True)
    check_name(config.get("name"))
    context = HydraContext(config_loader=composer.hydra.config_loader, callbacks=Callbacks(config))
    context.callbacks.on_multirun_start(config=config, config_name=composer.config_name)
    sweeper = composer.guard(
        overrides,
        lambda: Plugins.instance().instantiate_sweeper(config=config, hydra_context=context, task_function=Trial(composer.config_name, composer.config_dir)),
    )
    recorder = Recorder(getattr(sweeper, "launcher", None), composer, keep_going=type(sweeper) is BasicSweeper)
    if recorder.launcher is not None:
        sweeper.launcher = recorder
    arguments = [str(line) for line in OmegaConf.to_container(config.hydra.overrides.task, resolve=False) or []]
    with only_json(as_json):
        composer.guard(overrides, lambda: sweeper.sweep(arguments=arguments))
    context.callbacks.on_multirun_end(config=config, config_name=composer.config_name)
    return conclude(recorder.done, Path(str(config.hydra.sweep.dir)), as_json=as_json)


def check_name(name: Any) -> None:
    """Hydra makes a sweep's directories before a trial is looked at."""
    if not isinstance(name, str):
        raise ConfigError("name", f"{name!r} is no string", "letters, digits, dots, dashes and underscores")
    RunSettings(name=name).check()


def conclude(jobs: Sequence[JobReturn], folder: Path, *, as_json: bool) -> int:
    """Say how the trials ended. Exit code 0 where all are done, 2 where only mistakes of the user's failed, 1 otherwise."""
    trials = [_trial(job, number) for number, job in enumerate(jobs)]
    failed = [job._return_value for job in jobs if job.status is JobStatus.FAILED]
    if as_json:
        say_json({"sweep": str(folder), "trials": trials})
    else:
        names = list(dict.fromkeys(name for trial in trials for name in trial.get("metrics", {})))
        rows = [
            [trial["number"], " ".join(trial["overrides"]), *[trial.get("metrics", {}).get(name, "-") for name in names], trial["outcome"]] for trial in trials
        ]
        say(table(rows, ["trial", "overrides", *names, "outcome"]))
        say(f"\n{len(trials) - len(failed)} of {len(trials)} trials done, in {folder}")
    for trial, job in zip(trials, jobs, strict=True):
        if job.status is JobStatus.FAILED:
            note(f"\ntrial {trial['number']} ({' '.join(trial['overrides'])}) failed")
            report(job._return_value, debug=False, as_json=False)
    if not failed:
        return DONE
    return USERS if all(isinstance(error, ZooError) for error in failed) else OURS


def _trial(job: JobReturn, number: int) -> dict[str, Any]:
    failed = job.status is JobStatus.FAILED
    result = {} if failed or not isinstance(job._return_value, dict) else job._return_value
    told = {"number": number, "overrides": [str(line) for line in job.overrides or []], "outcome": "failed" if failed else "done", **result}
    return told | ({"error": error_tree(job._return_value)} if failed else {})
