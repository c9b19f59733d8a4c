"""One run, as one process does it: data, model, training, test, bundle. What every rank runs."""

import json
import secrets
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.build import build_augment, build_callbacks, build_dataset, build_loggers, build_model, build_optimizer, build_schedule
from zoo.checks import check_opened
from zoo.config import RunConfig
from zoo.data.agreement import FOLDER, check_unchanged, keep
from zoo.data.base import OpenData
from zoo.data.loader import Loader
from zoo.data.processor import Processor
from zoo.errors import ConfigError
from zoo.hub.bundle import open_bundle, write_bundle
from zoo.layers.lora import adapter_parameters, add_lora, merged, remove_lora
from zoo.model import Model
from zoo.parallel.collectives import everyone
from zoo.parallel.device import choose_device, limit_threads
from zoo.parallel.launch import joined_group, local_place
from zoo.parallel.layout import degrees
from zoo.parallel.mesh import Mesh, make_mesh
from zoo.parallel.parallelize import place
from zoo.parallel.seeding import seed_everything
from zoo.parallel.sharding import whole_state
from zoo.settings import Mode
from zoo.specs import Horizon
from zoo.training.checkpoint import Checkpoint, Checkpointer
from zoo.training.determinism import deterministic
from zoo.training.environment import environment, write_environment
from zoo.training.evaluator import Evaluator
from zoo.training.init import init_weights
from zoo.training.logging import RunInfo, RunLog
from zoo.training.plots import plot_run
from zoo.training.progress import ProgressDisplay
from zoo.training.remote import Remote
from zoo.training.report import closing, stopped
from zoo.training.resume import refuse_past_end
from zoo.training.signals import Interruption
from zoo.training.state import Ending, Monitor, horizon_of
from zoo.training.store import Store
from zoo.training.trainer import Trainer


def run_job(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """Train, test and publish; goes on from the newest complete checkpoint in ``run_dir``, if there is one.

    Args:
        config: checked.
        run_dir: exists and holds ``config.yaml``.

    Returns:
        What ``result.json`` holds: run, bundle, metrics, seconds, parameters, outcome.
    """
    _, local_rank, local_size = local_place()
    limit_threads(config.parallel.threads, local_size)
    device = choose_device(config.trainer.device, local_rank)
    with deterministic(config.trainer.deterministic), joined_group(device, config.parallel.timeout):
        mesh = make_mesh(degrees(config.parallel, everyone().size), device)
        return Job(config, run_dir, mesh, device).run()


def taken(data: OpenData, model: Model) -> OpenData:
    """The data without what the model does not take, which so decides no row."""
    head: Any = model.head
    return data.only(model.takes, {head.target.name})


class Job:
    """The parts of a run, and their order.

    Args:
        config: checked.
        run_dir: of the run.
        mesh: the ranks.
        device: of this one.
    """

    def __init__(self, config: RunConfig, run_dir: Path, mesh: Mesh, device: torch.device) -> None:
        self.config, self.run_dir, self.mesh, self.group, self.device = config, run_dir, mesh, mesh.world, device
        self.log: RunLog | None = None
        self.best: tuple[int, str] | None = None
        self.loaders: list[Loader] = []
        self.interruption = Interruption()
        self.trained = 0

    def run(self) -> dict[str, Any]:
        """The whole job. A signal that comes before training ends it before the first step, one that comes after it lets the job publish."""
        with self.interruption:
            return self._run()

    def _run(self) -> dict[str, Any]:
        begun = time.perf_counter()
        config, settings = self.config, self.config.trainer
        writers = {"rank": self.group.rank, "writers": self.group.size} if self.mesh.degrees.sharded else {}
        checkpointer = Checkpointer(self.run_dir / "checkpoints", settings.keep_last, timeout=config.parallel.timeout, remote=self._remote(), **writers)
        checkpoint = self._checkpoint(checkpointer)
        self.say(f"{self.run_dir}: opening the data ({config.data['name']})")
        data = build_dataset(config).open()
        check_opened(config, data.spec)
        self._keep_data(data, begun_before=checkpoint is not None)
        with torch.device("meta"):
            skeleton = build_model(config, data.spec, fetch=False)
            add_lora(skeleton, config.lora)
        data = taken(data, skeleton)
        seed_everything(config.run.seed)
        build = partial(self._model, data, begun_before=checkpoint is not None)
        model = place(build, skeleton, self.mesh, self.device, settings, config.parallel)
        train = self._loader(data, "train", training=True)
        horizon = horizon_of(settings, train.steps_per_epoch)
        self._begin(data, model, horizon, checkpoint)
        evaluators = {split: self._evaluator(data, split) for split in ("validation", "test") if split in data.splits}
        validation = evaluators.get("validation")
        display = None
        if self.group.main:
            write_environment(self.run_dir, environment(config, self.group, self.device))
            start = checkpoint.step if checkpoint else 0
            display = ProgressDisplay(total_steps=horizon.total_steps, start_step=start, name=config.run.name)
            loggers = build_loggers(config, RunInfo(run_dir=self.run_dir, name=config.run.name, config=config.to_dict()))
            self.log = RunLog(self.run_dir, loggers=loggers, display=display)
        outcome_word = "failed"
        metrics: dict[str, float] = {}
        try:
            optimizer = build_optimizer(config, model)
            self.trained = sum(parameter.numel() for entry in optimizer.param_groups for parameter in entry["params"])
            trainer = Trainer(
                model=model,
                optimizer=optimizer,
                schedule=build_schedule(config, horizon),
                horizon=horizon,
                train=train,
                evaluator=validation,
                settings=settings,
                seed=config.run.seed,
                mesh=self.mesh,
                device=self.device,
                monitor=self._monitor(model) if validation is not None else None,
                log=self.log,
                checkpointer=checkpointer,
                callbacks=build_callbacks(config),
                timeout=config.parallel.timeout,
                interruption=self.interruption,
                tick=display.step if display is not None else None,
            )
            if checkpoint is not None:
                trainer.load(checkpoint)
                self.say(f"going on from {checkpointer.place(checkpoint.step)}")
                self.group.wait()
                checkpointer.release()
            if self.log is not None:
                begun_anew = {"rows": 0, "time": 0.0, "loggers": {}}
                self.log.load_state_dict(checkpoint.state["log"] if checkpoint is not None else begun_anew)
                self.log.start()
            profile = None
            if settings.profile and self.group.main:
                from zoo.training.profile import Profile

                profile = Profile(trainer, self.run_dir / "profile")
            try:
                outcome = trainer.fit()
            finally:
                if profile is not None and profile.open:
                    profile.close()
            if outcome.ending is Ending.INTERRUPTED:
                result = self._result("stopped", begun, outcome.progress.step, model, {}, None)
            else:
                metrics, tables, state = self._publishable(trainer, model, evaluators)
                result = self._result("done", begun, outcome.progress.step, model, metrics, self.run_dir / "bundle")
                if self.group.main:
                    self._publish(data, model, metrics, tables, state)
            self._list_bad_samples()
            self.best = self._best(trainer) if outcome.ending is not Ending.INTERRUPTED else None
            if self.group.main:
                (self.run_dir / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            outcome_word = result["outcome"]
        finally:  # everything is on disk by now, since followers of the log may take their time
            if self.log is not None:
                self.log.close(outcome_word, metrics)
        if self.group.main:
            self._tell(result, horizon.total_steps)
        self.group.wait()
        return result

    # --- parts ------------------------------------------------------------------------------------------------------------------

    def _begin(self, data: OpenData, model: Model, horizon: Horizon, checkpoint: Checkpoint | None) -> None:
        """What is going to be trained on what, and whether anything is left to do.

        Raises:
            ConfigError: for a resumed run that is past its new end.
        """
        if checkpoint is not None:
            refuse_past_end(self.run_dir, checkpoint.step, horizon.total_steps)
        splits = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
        length = f"{horizon.total_steps:,} steps of {self.config.loader.batch_size} samples"
        if (asked := self.config.trainer.max_steps) is not None and asked > horizon.total_steps:
            length += f" (trainer.max_epochs={self.config.trainer.max_epochs} comes before trainer.max_steps={asked})"
        self.say(f"{splits} samples; {model.num_parameters():,} parameters; {length}")

    def _checkpoint(self, checkpointer: Checkpointer) -> Checkpoint | None:
        """The one to go on from; rank 0 chooses, so that all ranks go on from the same."""
        found = None
        if self.group.main:
            checkpointer.clean()
            found, messages = checkpointer.newest()
            for message in messages:
                self.say(message)
            if found is None and (messages or self.config.run.resume):
                self.say("there is no complete checkpoint: the run begins anew")
        step = self.group.share(found.step if found else None)
        return found or (checkpointer.open(step, verify=False) if step is not None else None)  # rank 0 has read every byte

    def _remote(self) -> Remote | None:
        """Where checkpoints go, if not to the run's directory."""
        url = self.config.trainer.checkpoint_to
        return Remote(Store(url), self.run_dir, self.group.share(secrets.token_hex(4))) if url is not None else None

    def _model(self, data: OpenData, *, begun_before: bool) -> Model:
        """The whole model with the weights that a new run begins with."""
        model = build_model(self.config, data.spec, fetch=not begun_before)
        if not begun_before and self.config.run.init is not None:
            run = self.config.run
            assert run.init is not None
            nodes = {"encoder": self.config.encoder, "decoder": self.config.decoder, "head": self.config.head}
            report = init_weights(model, run.init, run.init_skip, Processor.of(data), rename=run.init_rename, fit=run.init_fit, nodes=nodes)
            self.say(str(report))
            if self.group.main:
                report.save(self.run_dir / "init.json")
        self._adapt(model)
        return model

    def _adapt(self, model: Model) -> None:
        """Adapters, where the config has them."""
        if adapted := add_lora(model, self.config.lora):
            adapters = adapter_parameters(model)
            self.say(f"lora: {len(adapted)} layers adapted, with {adapters:,} parameters to {model.num_parameters() - adapters:,} of the model")

    def _keep_data(self, data: OpenData, *, begun_before: bool) -> None:
        """What the data is, on disk before the first step; a run that goes on must find it the same."""
        changed: list[str] = []
        if begun_before:
            allowed = any(key == "data" or key.startswith("data.") for key in self.config.run.allow)
            changed = check_unchanged(self.run_dir, data, allowed=allowed)
        self.group.wait()  # every rank has read what it compares with
        if self.group.main and (changed or not begun_before or not (self.run_dir / FOLDER / "processor.json").is_file()):
            keep(self.run_dir, data)
        for line in changed:
            self.say(f"the data has changed, as allowed: {line}")

    def _loader(self, data: OpenData, split: str, *, training: bool) -> Loader:
        settings = self.config.loader
        batch_size = settings.batch_size if training else settings.eval_batch_size or 2 * settings.batch_size
        parts = self.config.trainer.accumulate if training else 1
        loader = Loader(
            data=data,
            split=split,
            settings=settings,
            augment=build_augment(self.config) if training else {},
            seed=self.config.run.seed,
            rank=self.mesh.data.rank,
            world=self.mesh.data.size,
            micro_batches=parts,
            training=training,
            batch_size=batch_size,
        )
        self.loaders.append(loader)
        return loader

    def _evaluator(self, data: OpenData, split: str) -> Evaluator:
        return Evaluator(
            loader=self._loader(data, split, training=False), split=split, group=self.mesh.data, device=self.device, precision=self.config.trainer.precision
        )

    def _monitor(self, model: Model) -> Monitor:
        head: Any = model.head
        metric, mode = head.monitor
        settings = self.config.trainer
        if settings.monitor is None:
            return Monitor(f"validation/{metric}", settings.monitor_mode or Mode(mode))
        own = settings.monitor == f"validation/{metric}"
        if settings.monitor_mode is None and not own:
            raise ConfigError(
                "trainer.monitor",
                f"{settings.monitor!r}: whether more or less of it is better is not known",
                "trainer.monitor_mode=max",
                "trainer.monitor_mode=min",
            )
        return Monitor(settings.monitor, settings.monitor_mode or Mode(mode))

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def _publishable(
        self, trainer: Trainer, model: Model, evaluators: dict[str, Evaluator]
    ) -> tuple[dict[str, float], dict[str, Any], dict[str, torch.Tensor]]:
        """Final figures of the weights that are published: the best checkpoint's, averaged ones if there are any."""
        best = trainer.progress.best
        if best is not None and best.step != trainer.progress.step:
            assert trainer.checkpointer is not None
            trainer.load_weights(trainer.checkpointer.open(best.step, verify=self.group.main, parts=("model", "ema")))
            self.group.wait()
            trainer.checkpointer.release()
        metrics: dict[str, float] = {}
        tables: dict[str, Any] = {}
        for split, evaluator in evaluators.items():
            known = trainer.evaluated(trainer.progress.step if best is None else best.step) if evaluator is trainer.evaluator else None
            evaluation = known or trainer.evaluate_with(evaluator)
            metrics |= evaluation.figures
            tables |= {f"{split}/{name}": table for name, table in evaluation.tables.items()}
        if self.log is not None and any(name.startswith("test/") for name in metrics):
            self.log.row(trainer.progress.step, {name: value for name, value in metrics.items() if name.startswith("test/")})
        with trainer.step.ema.applied() if trainer.step.ema is not None else nullcontext():
            state = merged(whole_state(model, self.mesh.grid))
        remove_lora(model)
        return metrics, tables, state

    @staticmethod
    def _best(trainer: Trainer) -> tuple[int, str] | None:
        """The step that was published and the metric that chose it, where it is not the last."""
        best = trainer.progress.best
        return None if best is None or trainer.monitor is None or best.step == trainer.progress.step else (best.step, trainer.monitor.metric)

    def _publish(self, data: OpenData, model: Model, metrics: dict[str, float], tables: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
        """The bundle, then pictures."""
        bundle, processor = self.run_dir / "bundle", Processor.of(data)
        write_bundle(bundle, config=self.config, processor=processor, model=model, metrics=metrics, notes=data.notes, tables=tables, state=state)
        plot_run(self.run_dir, tables=tables, title=self.config.run.name)

    def _result(self, outcome: str, begun: float, step: int, model: Model, metrics: dict[str, float], bundle: Path | None) -> dict[str, Any]:
        seconds = self.log.seconds if self.log is not None else time.perf_counter() - begun
        return {
            "run": str(self.run_dir),
            "bundle": str(bundle) if bundle else None,
            "metrics": metrics,
            "seconds": round(seconds, 3),
            "parameters": model.num_parameters() - adapter_parameters(model),
            "trained_parameters": self.trained,
            "outcome": outcome,
            "step": step,
        }

    def _list_bad_samples(self) -> None:
        """``bad_samples.json``: split -> sample -> why it was left out, of all ranks; no file where there are none."""
        found: dict[str, dict[str, str]] = {}
        for ranks in self.group.gather({loader.split: dict(loader.bad) for loader in self.loaders}):
            for split, bad in ranks.items():
                if bad:
                    found.setdefault(split, {}).update(bad)
        if found and self.group.main:
            (self.run_dir / "bad_samples.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _tell(self, result: dict[str, Any], total: int) -> None:
        """The end, for people."""
        if result["outcome"] == "stopped":
            stopped(run_dir=self.run_dir, step=result["step"], total_steps=total)
            return
        bundle, parameters = Path(result["bundle"]), result["parameters"]
        example = open_bundle(bundle).example
        figures, seconds = result["metrics"], result["seconds"]
        trained = result["trained_parameters"]
        closing(run_dir=self.run_dir, metrics=figures, seconds=seconds, parameters=parameters, trained=trained, bundle=bundle, example=example, best=self.best)

    def say(self, line: str) -> None:
        if self.group.main:
            sys.stderr.write(f"{line}\n")
