"""The trainer: steps, evaluations, checkpoints and logs in their order. It knows no modality and no task.

After optimizer step s, in this order: log row, evaluation, checkpoint. A signal takes effect between two steps, after which the run stands
exactly as an uninterrupted one would.
"""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.data.ahead import Fetched, fetch
from zoo.data.loader import Loader
from zoo.errors import CheckpointError, ConfigError
from zoo.model import Model
from zoo.optim.freeze import Freezer
from zoo.optim.schedules import Schedule
from zoo.parallel.collectives import broadcast_state
from zoo.parallel.mesh import Mesh
from zoo.parallel.sharding import local_state
from zoo.parallel.watchdog import Watchdog
from zoo.settings import TrainerSettings
from zoo.specs import Horizon
from zoo.structs import Batch
from zoo.training.batch_statistics import refuse_mixed_batches
from zoo.training.callbacks import Callback
from zoo.training.checkpoint import Checkpoint, Checkpointer
from zoo.training.evaluator import Evaluation, Evaluator
from zoo.training.faults import RollBack
from zoo.training.guard import describe_failure, samples_of
from zoo.training.optimizer_state import OptimizerState
from zoo.training.progress import memory
from zoo.training.signals import Interruption
from zoo.training.state import Best, Ending, Monitor, Outcome, Progress
from zoo.training.step import TrainStep
from zoo.training.tensors import load_strictly, piece_for


class Log(Protocol):
    """Where rows go: ``zoo.training.logging.RunLog`` on rank 0, nothing elsewhere."""

    def row(self, step: int, values: Mapping[str, float]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def rewind(self, state: Mapping[str, Any]) -> None: ...


class Trainer:
    """Trains a model.

    Args:
        model: on ``device``, equal on all ranks.
        optimizer: over its parameters.
        schedule: multiplier of the learning rate by step.
        horizon: the run's length.
        train: this rank's loader of the training split.
        evaluator: of the validation split; None where there is none.
        settings: the config's trainer node.
        seed: the run's.
        mesh: the ranks.
        device: where the model is.
        monitor: what decides which checkpoint is best; None without an evaluator.
        log: for rows; None on ranks other than the first.
        checkpointer: None keeps no checkpoints. Every rank has one; those write that hold what no other does.
        callbacks: by label, in order.
        timeout: seconds after which a step of one of several processes counts as hanging.
        interruption: notes signals; the job's own listens before and after training as well.
        tick: told the number of steps done after each one, for a progress display; has to cost next to nothing.
    """

    def __init__(
        self,
        *,
        model: Model,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        horizon: Horizon,
        train: Loader,
        evaluator: Evaluator | None,
        settings: TrainerSettings,
        seed: int,
        mesh: Mesh,
        device: torch.device,
        monitor: Monitor | None = None,
        log: Log | None = None,
        checkpointer: Checkpointer | None = None,
        callbacks: Mapping[str, Callback] | None = None,
        timeout: float | None = None,
        interruption: Interruption | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> None:
        self.freezer = Freezer(model.train(), settings)
        refuse_mixed_batches(model, settings, mesh)
        self.model, self.train, self.evaluator, self.settings, self.horizon = model, train, evaluator, settings, horizon
        self.mesh, self.group, self.device, self.log, self.checkpointer, self.monitor = mesh, mesh.world, device, log, checkpointer, monitor
        self.callbacks, self.tick = dict(callbacks or {}), tick
        if not mesh.degrees.sharded:
            broadcast_state(list(model.state_dict().values()), mesh.world)
        self.step = TrainStep(model=model, optimizer=optimizer, schedule=schedule, settings=settings, seed=seed, mesh=mesh, device=device)
        self.step.describe = train.describe
        self.optimizer_state = OptimizerState(optimizer, self.step.names)
        self.progress = Progress()
        self.interruption = interruption or Interruption()
        self.fetch: Callable[[Any, torch.device], Generator[Fetched, None, None]] = fetch
        self._saved_step = -1
        self._parts: list[Batch] = []
        self.watchdog = Watchdog(
            mesh.world.rank,
            timeout if mesh.world.size > 1 else None,
            lambda: f"step {self.progress.step + 1}, " + (f"on samples {samples_of(self._parts)}," if self._parts else "waiting for its data,"),
        )
        self._positions = 0
        self._rows_step = 0
        self._evaluated: dict[int, Evaluation] = {}

    # --- the loop -------------------------------------------------------------------------------------------------------------

    def fit(self) -> Outcome:
        """Train from where ``progress`` stands to the end of the run, or until stopped."""
        self.model.train()
        self.freezer.apply(self.progress.step)
        if self.settings.rolls_back and self.progress.step == 0:
            self.save()  # something to go back to
        self.train.load_state_dict(self.progress.loader)
        self._rows_step = self.progress.step
        with self.interruption, self.watchdog:
            for callback in self.callbacks.values():
                callback.start(self.progress, self.monitor)
            ending = self._ending()
            while ending is None:
                ending = self._epoch()
            self._close()
        outcome = Outcome(ending, self._reason(ending), self.progress)
        for callback in self.callbacks.values():
            callback.end(outcome)
        return outcome

    def _epoch(self) -> Ending | None:
        """To the end of the loader's epoch, or of the run."""
        with closing(self.fetch(self.train, self.device)) as fetching:
            return self._steps(fetching)

    def _steps(self, fetching: Generator[Fetched, None, None]) -> Ending | None:
        step, progress, interruption, settings = self.step, self.progress, self.interruption, self.settings
        log_every, tick, thaw, ending, clock = settings.log_every, self.tick, self.freezer.until, None, step.clock
        clock.skip()
        for fetched in self.watchdog.over(fetching, lambda: f"rank {self.group.rank} failed in step {progress.step + 1}, waiting for its data"):
            self._parts = fetched.host
            clock.mark("data")
            self.watchdog.beat()
            try:
                clock.begin()
                counts, stopping = step.counts(fetched.host, interruption.name is not None)
                if stopping:
                    self.watchdog.rest()
                    return Ending.INTERRUPTED
                step(fetched.parts, progress.step, counts)
            except RollBack as reason:
                fetching.close()  # under the watchdog: a loader may hang
                self.watchdog.rest()
                self._roll_back(reason, fetched.cursor)
                return None
            except Exception as error:
                if not step.judging:
                    error.add_note(describe_failure(self.group.rank, progress.step + 1, fetched.host))
                raise
            self.watchdog.rest()
            self._parts = []
            progress.step += 1
            if progress.step == thaw:
                self.freezer.apply(thaw)
            if tick is not None:
                tick(progress.step)
            progress.loader = dict(fetched.cursor)
            self._account()
            self._positions += step.positions
            last = progress.step >= self.horizon.total_steps
            if last or progress.step % log_every == 0:
                self._log_row()
            clock.mark("rest")
            epoch_ends = progress.loader["batch"] == 0
            if epoch_ends or last or settings.eval_every is not None or settings.checkpoint_every is not None:
                ending = self._boundary(epoch_ends, last)
            if ending is not None:
                return ending
        return None

    def _account(self) -> None:
        """Losses of the steps whose figures are known by now."""
        window = self.progress.window
        for terms in self.step.take():
            for name, value in terms.items():
                window[name] = window.get(name, 0.0) + value
            window["steps"] = window.get("steps", 0) + (1 if terms else 0)

    def _settle(self) -> None:
        """Every step so far is done, judged and accounted for; waiting for the last one is of the training's time."""
        self.step.settle()
        self._account()
        self.step.clock.mark("rest")

    def _boundary(self, epoch_ends: bool, last: bool) -> Ending | None:
        """Evaluate and save where it is due after this step."""
        step, settings = self.progress.step, self.settings
        best = False
        if self.evaluator is not None and (last or _due(step, settings.eval_every, epoch_ends)):
            best = self._evaluate(self.evaluator)
        if last or best or self.progress.stop or _due(step, settings.checkpoint_every, epoch_ends):
            self.save()
        return self._ending()

    def _ending(self) -> Ending | None:
        if self.progress.step >= self.horizon.total_steps:
            return Ending.FINISHED
        return Ending.EARLY if self.progress.stop else None

    def _close(self) -> None:
        """Whatever ends the run, its last step is on disk when this returns."""
        self.save(due=False)
        if self.checkpointer is not None:
            self.checkpointer.wait()
        self.group.wait()

    def _reason(self, ending: Ending) -> str:
        match ending:
            case Ending.FINISHED:
                return f"{self.progress.step} steps done"
            case Ending.EARLY:
                return self.progress.stop or ""
            case Ending.INTERRUPTED:
                return f"stopped by {self.interruption.name or 'a signal to another process'} after step {self.progress.step}"

    # --- at a boundary ---------------------------------------------------------------------------------------------------------

    def _log_row(self) -> None:
        self._settle()
        progress, window = self.progress, self.progress.window
        steps = window.pop("steps")
        losses = {name: value / steps for name, value in window.items()}  # of the steps that were made
        progress.window = {}
        done, positions = progress.step - self._rows_step, self._positions
        seconds, parts = self.step.clock.take(done)
        self._rows_step, self._positions = progress.step, 0
        if self.log is None:
            return
        values = {"train/loss": sum(losses.values())} if losses else {}
        values |= {f"train/loss_{name}": value for name, value in losses.items()} if len(losses) > 1 else {}
        values |= {"lr": self.step.lr, "grad_norm": self.step.norm, "epoch": progress.step / self.horizon.steps_per_epoch}
        values |= self.step.group_rates | self.step.faults.figures
        if bad := progress.loader.get("bad"):
            values["train/bad_samples"] = float(len(bad))
        values["samples_per_second"] = done * self.train.batch_size / max(1e-9, seconds)
        if positions:
            values["positions_per_second"] = positions / max(1e-9, seconds)
        values |= parts | {"memory_gb": memory() / 1e9}
        self.log.row(progress.step, values)

    def _evaluate(self, evaluator: Evaluator) -> bool:
        """On the validation split, with the averaged weights if there are any; whether it is the best so far."""
        self._settle()
        if "steps" in self.progress.window:
            self._log_row()
        evaluation = self.evaluate_with(evaluator)
        progress = self.progress
        progress.evaluation = evaluation.figures
        if self.log is not None:
            self.log.row(progress.step, evaluation.figures)
        best = False
        if self.monitor is not None:
            value = evaluation.figures[self.monitor.metric]
            best = self.monitor.better(value, progress.best.value if progress.best else None)
            if best:
                progress.best = Best(progress.step, value)
        kept = {progress.step, progress.best.step if progress.best is not None else progress.step}
        self._evaluated = {step: found for step, found in (*self._evaluated.items(), (progress.step, evaluation)) if step in kept}
        for callback in self.callbacks.values():
            callback.evaluated(progress, self.monitor)
        self.step.clock.skip()
        return best

    def evaluated(self, step: int) -> Evaluation | None:
        """On the validation split after this step, where that was the last time or the best, in this process."""
        return self._evaluated.get(step)

    def evaluate_with(self, evaluator: Evaluator) -> Evaluation:
        """Any split, with the weights that would be published now."""
        self._settle()
        self._agree_on_buffers()
        with self.step.ema.applied() if self.step.ema is not None else nullcontext():
            evaluation = evaluator.evaluate(self.model)
        self.freezer.apply(self.progress.step)  # the evaluator puts the whole model back into training mode
        return evaluation

    def _agree_on_buffers(self) -> None:
        """Running statistics are the first rank's; those of the others never reach an evaluation or a checkpoint.

        Averaging them here would change what comes after, and a resumed run would differ from an uninterrupted one.
        """
        if self.group.size > 1:
            kept = self.model.state_dict(keep_vars=True)
            buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in kept}
            averages = [self.step.ema.average[name] for name in buffers if name in self.step.ema.average] if self.step.ema is not None else []
            broadcast_state([*buffers.values(), *averages], self.group)

    # --- checkpoints -----------------------------------------------------------------------------------------------------------

    def save(self, *, due: bool = True) -> None:
        """Hand the state of this step to the checkpointer, once. Roll-backs go to one that was due, so that an interruption changes nothing."""
        if self.checkpointer is None or self._saved_step == self.progress.step:
            return
        self._settle()
        self._agree_on_buffers()
        self._saved_step = self.progress.step
        if due:
            self.progress.anchor = self.progress.step
        if self.group.main or self.mesh.degrees.sharded:
            optimizer_tensors, optimizer_rest = self.optimizer_state.collect()
            tensors = {"model": local_state(self.model), "optimizer": optimizer_tensors}
            if self.step.ema is not None:
                tensors["ema"] = self.step.ema.state_dict()
            tensors = {part: self._written_here(named) for part, named in tensors.items()}
            state = {
                "progress": self.progress.to_dict(),
                "optimizer": optimizer_rest,
                "callbacks": {label: callback.state_dict() for label, callback in self.callbacks.items()},
                "log": self.log.state_dict() if self.log is not None else {},
                "faults": self.step.faults.state_dict(),
            }
            best, anchor = self.progress.best, self.progress.anchor if self.settings.rolls_back else None
            self.checkpointer.save(self.progress.step, tensors, state, best=best.step if best else None, anchor=anchor, pieces=self.step.pieces)
        for callback in self.callbacks.values():
            callback.saved(self.progress)
        self.step.clock.skip()

    def _written_here(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of what several processes hold, each tensor or part once."""
        if not self.mesh.degrees.sharded:
            return named
        found = {name: piece_for(name, tensor.shape, self.step.pieces) for name, tensor in named.items()}
        return {
            name: tensor for name, tensor in named.items() if ((piece := found[name]) is None and self.group.main) or (piece and piece.owner and tensor.numel())
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint: the next step is the one that an uninterrupted run would have made."""
        self.load_weights(checkpoint)
        self.optimizer_state.restore(checkpoint.tensors("optimizer", self.step.pieces), checkpoint.state["optimizer"], checkpoint.place)
        self.progress = Progress.from_dict(checkpoint.state["progress"])
        if "faults" in checkpoint.state:
            self.step.faults.load_state_dict(checkpoint.state["faults"])
        self._saved_step = self.progress.step
        for label, callback in self.callbacks.items():
            if label in checkpoint.state["callbacks"]:
                callback.load_state_dict(checkpoint.state["callbacks"][label])

    def _roll_back(self, reason: RollBack, cursor: Mapping[str, Any]) -> None:
        """To the last complete checkpoint, with the loader behind the batch that was bad. Whatever that leaves out, data and log, it leaves out
        again when it is resumed: the counts of what has happened are the only thing that is kept from before."""
        if self.checkpointer is None:
            raise ConfigError("trainer.non_finite", f"{reason}: this trainer keeps no checkpoints to go back to", "trainer.non_finite=skip") from reason
        faults, before = self.step.faults, self.step.faults.state_dict()
        self.checkpointer.wait()
        self.group.wait()
        found = self.checkpointer.newest(self.progress.anchor)[0] if self.group.main else None
        step = self.group.share(found.step if found else None)
        if step is None:
            raise CheckpointError(
                f"{reason}: there is no complete checkpoint in {self.checkpointer.where} to go back to\n"
                "  way out: trainer.non_finite=skip, trainer.on_spike=skip"
            ) from reason
        checkpoint = found or self.checkpointer.open(step, verify=False)  # rank 0 has read every byte
        self.load(checkpoint)
        self.group.wait()
        self.checkpointer.release()
        faults.load_state_dict(faults.state_dict() | {name: before[name] for name in ("overflows", "skips", "rollbacks")})
        self.progress.loader = dict(cursor)
        self.train.load_state_dict(cursor)
        self.freezer.apply(self.progress.step)
        if self.log is not None:
            self.log.rewind(checkpoint.state["log"])
        self._rows_step, self._positions = self.progress.step, 0
        self.step.clock.take(0)
        if self.group.main:
            sys.stderr.write(f"back at step {self.progress.step}, going on with epoch {cursor['epoch']}, batch {cursor['batch']}\n")

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """The model's and the averaged ones; an average that begins only now begins from the model's."""
        weights = checkpoint.tensors("model", self.step.pieces)
        load_strictly(local_state(self.model), weights, f"{checkpoint.place}/model.safetensors")
        if self.step.ema is not None:
            averages = checkpoint.tensors("ema", self.step.pieces) if checkpoint.has("ema") else {name: weights[name] for name in self.step.ema.average}
            load_strictly(self.step.ema.state_dict(), averages, f"{checkpoint.place}/ema.safetensors")


def _due(step: int, every: int | None, epoch_ends: bool) -> bool:
    return epoch_ends if every is None else step % every == 0
