"""Settings of a run that belong to no component: the rest of the config's keys, typed. No torch here.

The fields' names, types and defaults are the schema, exactly as a component's signature is; their docs are what ``zoo show`` prints.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from zoo.errors import ConfigError, did_you_mean


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Order(StrEnum):
    SHUFFLE = "shuffle"
    BUCKETS = "buckets"
    SEQUENTIAL = "sequential"


class BatchPacking(StrEnum):
    NONE = "none"
    FLAT = "flat"


class Cache(StrEnum):
    AUTO = "auto"
    MEMORY = "memory"
    NONE = "none"


class Mode(StrEnum):
    MIN = "min"
    MAX = "max"


class BatchStatistics(StrEnum):
    REFUSE = "refuse"
    LOCAL = "local"


class Strategy(StrEnum):
    DDP = "ddp"
    FSDP = "fsdp"


class Recompute(StrEnum):
    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


class Fault(StrEnum):
    """What becomes of a step that must not be made."""

    STOP = "stop"
    SKIP = "skip"
    ROLLBACK = "rollback"


class MemoryFormat(StrEnum):
    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels_last"


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How samples become batches. These keys stand beside a dataset's own options in ``data``.

    Args:
        batch_size: samples of one optimizer step, over all processes and accumulated micro-batches; the numbers do not depend on how it is split.
        batch_tokens: tokens of one such batch at most, padding included, for texts and histories; batch_size still limits its samples. null: no limit.
        batch_seconds: seconds of sound of one such batch at most, padding included; batch_size still limits its samples. null: no limit.
        batch_pixels: pixels of one such batch at most; batch_size still limits its images. null: no limit.
        packing: none, where each sample is a row that is filled up to the longest; or flat, end to end in one row without padding, each attending to itself.
        eval_batch_size: samples of one evaluation batch over all processes; null takes twice batch_size. Budgets count twice there too.
        workers: loader processes of each training process; 0 reads in the training process. Batches are the same for any count.
        order: shuffle; buckets (batches of similar length in every input, shuffled); or sequential.
        cache: keep encoded samples in memory; auto does so under 2 GiB.
        teacher: name, path or address of a model whose scores of every sample are learned from (model/head=distilled_classification); null for none. It reads
            the data once, when that is opened.
        max_bad_samples: samples that may fail to decode before the run stops with the list of them; of each process, if not in memory.
    """

    batch_size: int = 64
    batch_tokens: int | None = None
    batch_seconds: float | None = None
    batch_pixels: int | None = None
    packing: BatchPacking = BatchPacking.NONE
    eval_batch_size: int | None = None
    workers: int = 0
    order: Order = Order.SHUFFLE
    cache: Cache = Cache.AUTO
    max_bad_samples: int = 10
    teacher: str | None = None

    def check(self) -> None:
        at_least("data.batch_size", self.batch_size, 1)
        at_least("data.batch_tokens", self.batch_tokens, 1)
        at_least("data.batch_pixels", self.batch_pixels, 1)
        if self.batch_seconds is not None and not self.batch_seconds > 0:
            raise ConfigError("data.batch_seconds", f"{self.batch_seconds} seconds hold nothing", "a number above 0", "data.batch_seconds=null for no limit")
        at_least("data.eval_batch_size", self.eval_batch_size, 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.max_bad_samples", self.max_bad_samples, 0)

    @property
    def packs(self) -> bool:
        return self.packing is not BatchPacking.NONE


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which of the data's inputs and targets the model takes.

    Args:
        input: name of the input; null where only one fits the encoder.
        target: name of the target; null where only one fits the head.
    """

    input: str | None = None
    target: str | None = None

    def check(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., 2021, https://arxiv.org/abs/2106.09685): W + alpha / rank * B A, of which only B and A are trained.

    Encoders and decoders with an adapted layer are frozen but for their adapters, and so is an adapted layer of a head; the rest of a head, and parts
    without an adapter, train as they are. The bundle holds the sums, as plain weights.

    Args:
        rank: of the adapters; null has none, and trains the whole model.
        alpha: the adapters' part is scaled by alpha / rank.
        dropout: probability of leaving out an element of what goes into an adapter.
        targets: shell patterns of the names of linear and convolutional layers, e.g. encoder.blocks.*.attention.qkv.
    """

    rank: int | None = None
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["encoder.*"])

    def check(self) -> None:
        at_least("model.lora.rank", self.rank, 1)
        for name, default in (("alpha", 16.0), ("dropout", 0.0), ("targets", ["encoder.*"])):
            if self.rank is None and getattr(self, name) != default:
                raise ConfigError(f"model.lora.{name}", f"{getattr(self, name)} belongs to adapters, and there are none", "model.lora.rank=8", "leave it out")
        if not self.alpha > 0:
            raise ConfigError("model.lora.alpha", f"{self.alpha} would leave the adapters without effect", "a number above 0, often 2 x rank")
        if not 0 <= self.dropout < 1:
            raise ConfigError("model.lora.dropout", f"{self.dropout} is no probability of leaving out", "0 <= dropout < 1")


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """Learning rates and weight decay of parts of the model. These keys stand beside an optimizer's own options in ``optimizer``.

    Args:
        layer_decay: each layer's rate is this share of the next one's, from the head down to the embedding (usually .65 to .9); null has one rate.
        overrides: prefix of parameters -> lr_scale (times every other rate) and weight_decay (of its matrices), e.g. {head: {lr_scale: 10}}.
    """

    layer_decay: float | None = None
    overrides: dict[str, dict[str, float]] = field(default_factory=dict)

    KEYS: ClassVar = ("lr_scale", "weight_decay")

    def check(self) -> None:
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ConfigError(
                "optimizer.layer_decay", f"{self.layer_decay} is not a share between 0 and 1", "optimizer.layer_decay=0.75", "optimizer.layer_decay=null"
            )
        for prefix, options in self.overrides.items():
            where = f"optimizer.overrides.{prefix}"
            for name, value in options.items():
                if name not in self.KEYS:
                    raise ConfigError(f"{where}.{name}", f"a prefix has no option {name!r}", did_you_mean(name, self.KEYS))
                if value < 0:
                    raise ConfigError(f"{where}.{name}", f"{value} is too small", "0 or more")
            if not options.get("lr_scale", 1.0):
                raise ConfigError(f"{where}.lr_scale", "0.0 would keep these parameters where they are", f"trainer.freeze=[{prefix}]")
            if not options:
                raise ConfigError(where, "nothing is set for it", f"{where}.lr_scale=10", f"{where}.weight_decay=0")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """One trainer for every model.

    Args:
        max_steps: optimizer steps; null takes max_epochs.
        max_epochs: passes over the training split; whichever limit comes first ends the run.
        precision: fp32, bf16, or fp16 with a loss scale that adapts itself (both autocast; parameters and optimizer stay in fp32).
        accumulate: micro-batches that one batch is split into, to save memory; changes no number.
        clip_norm: largest norm of the whole gradient; null does not clip.
        ema: decay of an exponential moving average of the weights, which is then what is evaluated and published; null keeps none.
        compile: torch.compile of each repeated block, or of the whole model where it has none (20 to 40 s at the start).
        recompute: activation checkpointing of the repeated blocks: none keeps every activation; selective keeps the results of matrix products and
            makes the rest again in the backward pass; full keeps a block's input only. Memory for time; changes no number.
        recompute_every: of the repeated blocks, recompute every n-th.
        profile: measure a dozen steps: time by part, operations and a trace, in the run's folder profile/; changes no number.
        device: auto takes the accelerator if there is one, else the CPU; or cpu, cuda, mps ...
        eval_every: optimizer steps between evaluations on the validation split; null evaluates at each epoch's end.
        checkpoint_every: optimizer steps between checkpoints; null saves at each epoch's end.
        checkpoint_to: URL of a store for this run's checkpoints, e.g. s3://bucket/runs/x, through fsspec; null keeps them in the run's own directory.
            The run goes on from there, also where its directory is gone: zoo train resume=s3://bucket/runs/x.
        keep_last: newest checkpoints to keep, besides the best.
        monitor: metric that decides which checkpoint is best, e.g. validation/accuracy; null takes the head's own.
        monitor_mode: whether less or more of it is better; null takes the head's own.
        log_every: optimizer steps between logged lines.
        batch_statistics: refuse models whose layers mix statistics over a batch (batch norm) when the batch is split, or take each part's own (local).
        freeze: prefixes of parameters that are not trained, e.g. [encoder.patches]; batch norm under them keeps its running statistics. Adapters
            (model.lora) under them are trained all the same; one is frozen by its whole name, e.g. encoder.proj.lora_a.
        freeze_until: optimizer steps after which they are trained with the rest; null never does. What model.lora has frozen never thaws.
        non_finite: a loss or gradient that is NaN or infinite stops the run, skips its batch, or rolls back to the last checkpoint and goes past it.
        spike: a loss above this many times the median of the last 64 steps is a spike; null looks for none.
        on_spike: stop, skip or rollback, as for non_finite.
        max_skips: batches that may be skipped before the run stops.
        max_rollbacks: times that the run may roll back before it stops.
        deterministic: only kernels that give the same bits each time, at some cost in speed; an operation without one is refused.
        memory_format: of images inside the model: contiguous, or channels_last, which convolutions on GPUs prefer; the same numbers but for rounding.
    """

    max_steps: int | None = None
    max_epochs: int | None = 20
    precision: Precision = Precision.FP32
    accumulate: int = 1
    clip_norm: float | None = 1.0
    ema: float | None = None
    compile: bool = False
    recompute: Recompute = Recompute.NONE
    recompute_every: int = 1
    profile: bool = False
    device: str = "auto"
    eval_every: int | None = None
    checkpoint_every: int | None = None
    checkpoint_to: str | None = None
    keep_last: int = 2
    monitor: str | None = None
    monitor_mode: Mode | None = None
    log_every: int = 10
    batch_statistics: BatchStatistics = BatchStatistics.REFUSE
    freeze: list[str] = field(default_factory=list)
    freeze_until: int | None = None
    non_finite: Fault = Fault.STOP
    spike: float | None = None
    on_spike: Fault = Fault.SKIP
    max_skips: int = 100
    max_rollbacks: int = 3
    deterministic: bool = False
    memory_format: MemoryFormat = MemoryFormat.CONTIGUOUS

    def check(self) -> None:
        if self.max_steps is None and self.max_epochs is None:
            raise ConfigError(
                "trainer.max_steps", "both max_steps and max_epochs are null, the run would never end", "trainer.max_steps=1000", "trainer.max_epochs=10"
            )
        for name in (
            "max_steps",
            "max_epochs",
            "accumulate",
            "eval_every",
            "checkpoint_every",
            "keep_last",
            "log_every",
            "freeze_until",
            "max_skips",
            "max_rollbacks",
            "recompute_every",
        ):
            at_least(f"trainer.{name}", getattr(self, name), 1)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(
                "trainer.clip_norm", f"{self.clip_norm} would make every gradient zero", "a number above 0", "trainer.clip_norm=null for no clipping"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError("trainer.ema", f"{self.ema} is not a decay between 0 and 1", "trainer.ema=0.999", "trainer.ema=null for none")
        if self.spike is not None and not self.spike > 1:
            raise ConfigError("trainer.spike", f"{self.spike} would call an ordinary loss a spike", "trainer.spike=3", "trainer.spike=null for none")
        if self.recompute_every > 1 and self.recompute is Recompute.NONE:
            raise ConfigError("trainer.recompute_every", f"{self.recompute_every}: no block is recomputed", "trainer.recompute=full", "leave it out")
        if self.on_spike is not Fault.SKIP and self.spike is None:
            raise ConfigError("trainer.on_spike", f"{self.on_spike}: nothing says what a spike is", "trainer.spike=4", "leave it out")
        if self.checkpoint_to is not None:
            check_address("trainer.checkpoint_to", self.checkpoint_to)
        if self.freeze_until is not None and not self.freeze:
            raise ConfigError("trainer.freeze_until", f"{self.freeze_until} thaws what trainer.freeze does not name", "trainer.freeze=[encoder]")

    @property
    def rolls_back(self) -> bool:
        return self.non_finite is Fault.ROLLBACK or (self.spike is not None and self.on_spike is Fault.ROLLBACK)


@dataclass(frozen=True, kw_only=True)
class ParallelSettings:
    """How many processes train together, and what each of them holds. No number of a run depends on it.

    Processes = replicas x shards x tensor. What is left of the processes after ``tensor`` is replicas (ddp), or shards of ``replicas`` copies (fsdp).

    Args:
        processes: processes on this machine, one per device; zoo starts them through torchrun's launcher. Under torchrun leave it at 1.
        strategy: ddp (each process holds the whole model) or fsdp (parameters, gradients and optimizer state are sharded; FSDP2).
        replicas: copies of a sharded model (hybrid sharding, HSDP: shards within a machine, copies between machines); fsdp only.
        tensor: processes that share the matrices of each Transformer block (tensor parallelism); they see the same rows.
        sequence: with tensor > 1, norms and dropouts work on a share of the positions each (sequence parallelism).
        reshard: free a block's gathered parameters after its forward pass and gather them again for the backward one; fsdp only.
        offload: keep parameters and optimizer state in main memory, on the device only while they are used; fsdp only.
        threads: CPU threads of each process; null shares the cores out evenly.
        timeout: seconds after which a collective operation that does not answer, or a step that hangs, ends the job with the rank and its stack.
    """

    processes: int = 1
    strategy: Strategy = Strategy.DDP
    replicas: int = 1
    tensor: int = 1
    sequence: bool = False
    reshard: bool = True
    offload: bool = False
    threads: int | None = None
    timeout: int = 600

    def check(self) -> None:
        for name in ("processes", "replicas", "tensor"):
            at_least(f"parallel.{name}", getattr(self, name), 1)
        for name in ("replicas", "offload", "reshard"):
            if self.strategy is not Strategy.FSDP and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ConfigError(f"parallel.{name}", f"{getattr(self, name)} means nothing without sharding", "parallel=fsdp", f"leave parallel.{name} out")
        if self.sequence and self.tensor == 1:
            raise ConfigError("parallel.sequence", "there is nothing to share the positions between with parallel.tensor=1", "parallel.tensor=2 or more")
        at_least("parallel.threads", self.threads, 1)
        at_least("parallel.timeout", self.timeout, 1)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Keys at the top of the config.

    Args:
        name: the run's name; its directory is runs/<name>/<time>.
        seed: from which every random number of the run is derived.
        run_dir: directory of this run; null makes runs/<name>/<time>.
        init: bundle, run, checkpoint, pretrained name or address whose weights the model starts from.
        init_skip: prefixes of parameters that init leaves as they were initialised, e.g. [head].
        init_rename: prefixes of the weights' names by prefixes of the model's, e.g. {encoder: encoder.encoders.text}: weights of one part of a whole.
        init_fit: prefixes of parameters that may have other sizes or entries: positions and patches are resampled, rows of vocabularies and classes follow
            their names.
        resume: run directory to go on with, exactly where its last complete checkpoint stands; or the URL of its checkpoints (trainer.checkpoint_to),
            from which a new directory is made.
        rerun: run directory, or URL of its checkpoints, to do again from its start, in a new directory; overrides apply on top.
        allow: keys that may differ from the checkpoint on resume although they change the numbers.
    """

    name: str = "run"
    seed: int = 0
    run_dir: str | None = None
    init: str | None = None
    init_skip: list[str] = field(default_factory=list)
    init_rename: dict[str, str] = field(default_factory=dict)
    init_fit: list[str] = field(default_factory=list)
    resume: str | None = None
    rerun: str | None = None
    allow: list[str] = field(default_factory=list)

    def check(self) -> None:
        at_least("seed", self.seed, 0)
        if any(sign in self.name for sign in "=/\\") or self.name in ("", ".", ".."):
            raise ConfigError("name", f"{self.name!r} cannot name a directory", "letters, digits, dots, dashes and underscores")


def check_address(path: str, url: str) -> None:
    """The form of a store's URL; its protocol is looked at by ``zoo.checks``.

    Raises:
        ConfigError: for a path, a chain of protocols, or a password, which would be saved with the config.
    """
    protocol, sign, rest = url.partition("://")
    if not sign or not rest.strip("/"):
        raise ConfigError(path, f"{url!r} is no URL of a folder", "s3://bucket/runs/x, gs://..., sftp://..., file:///...", "run_dir=PATH moves the whole run")
    if "::" in url:
        raise ConfigError(path, f"{url}: a chain of protocols", "one of them: s3://bucket/runs/x")
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        names = f"FSSPEC_{protocol.upper()}_USERNAME and _PASSWORD"
        raise ConfigError(
            path, f"{protocol}://...: a password would be saved with the config", f"in the environment: {names}", "in a file of ~/.config/fsspec/"
        )


def at_least(path: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise ConfigError(path, f"{value} is too small", f"{least} or more")
