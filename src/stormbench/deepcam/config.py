"""Every option of DeepCAM training, each declared once, and the rules that hold between them. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.core.options import option
from stormbench.deepcam.schedule import Schedule, parse, parse_milestones

FULL_TRAIN_SAMPLES = 121266
FULL_VALIDATION_SAMPLES = 15158
HYPER, RUN, DATA, COMPUTE, SUBMISSION = "hyperparameters", "run", "data", "compute", "submission"
SCHEDULE_PIECES = {
    "lr_schedule_type": "type", "lr_milestones": "milestones", "lr_decay_rate": "decay_rate", "lr_t_max": "t_max", "lr_eta_min": "eta_min",
}  # fmt: skip
"""The options that give the schedule in pieces, and what each is in a Schedule."""
WIREUP_METHODS = ("auto", "nccl-slurm", "nccl-openmpi", "nccl-slurm-pmi", "nccl-file", "gloo", "mpi", "dummy")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run. Build it by `core.options.resolve`, which takes flags, then variables, then these defaults."""

    optimizer: str = option(
        "Adam", variable="OPTIMIZER", group=HYPER, choices=("Adam", "AdamW", "LAMB"), log_keys=("opt_name", "optimizer_name"),
        help="Optimizer. LAMB is Apex FusedLAMB where Apex and a GPU are present, else the same algorithm in torch.",
    )
    start_lr: float = option(
        1e-3, variable="START_LR", group=HYPER, minimum=0, log_keys=("opt_lr", "optimizer_group0_lr"),
        help="Learning rate at the start, or the base rate where warm-up is used.",
    )
    optimizer_betas: tuple[float, ...] = option(
        (0.9, 0.999), variable="OPTIMIZER_BETAS", group=HYPER, count=2, minimum=0, below=1,
        log_keys=("opt_betas", "optimizer_group0_betas"), help="The two momentum terms.",
    )
    weight_decay: float = option(
        1e-6, variable="WEIGHT_DECAY", group=HYPER, minimum=0, log_keys=("opt_weight_decay", "optimizer_group0_weight_decay"),
        help="Weight decay: L2 for Adam, decoupled for AdamW and LAMB.",
    )
    lr_warmup_steps: int = option(
        0, variable="LR_WARMUP_STEPS", group=HYPER, unit="steps", minimum=0, log_keys=("scheduler_lr_warmup_steps",),
        help="Steps of linear warm-up; the target rate is reached at the last of them.",
    )
    lr_warmup_factor: float = option(
        1.0, variable="LR_WARMUP_FACTOR", group=HYPER, minimum=1, log_keys=("scheduler_lr_warmup_factor",),
        help="Warm-up ends at this factor times start_lr; with 1 it goes from 0 to start_lr.",
    )
    lr_schedule: Schedule | None = option(
        None, variable="LR_SCHEDULE", group=HYPER, convert=parse, metavar="SCHEDULE",
        help='Schedule after warm-up: type="multistep",milestones="5000 10000",decay_rate="0.1" or '
        'type="cosine_annealing",t_max="9000",eta_min="0"; steps count from the end of warm-up. Without it the rate stays.',
    )
    lr_schedule_type: str | None = option(
        None, variable="LR_SCHEDULE_TYPE", group=HYPER, choices=("multistep", "cosine_annealing"),
        help="The schedule in pieces, as the shell configs give it: its type.",
    )
    lr_milestones: tuple[int, ...] = option(
        (), variable="LR_MILESTONES", group=HYPER, unit="steps", convert=parse_milestones, metavar="LIST",
        help="Multistep: where the rate decays, separated by spaces or colons.",
    )
    lr_decay_rate: float = option(
        0.1, variable="LR_DECAY_RATE", group=HYPER, above=0, maximum=1, help="Multistep: factor at each milestone."
    )
    lr_t_max: int | None = option(None, variable="LR_T_MAX", group=HYPER, unit="steps", minimum=1, help="Cosine: length of half a period.")
    lr_eta_min: float = option(0.0, variable="LR_ETA_MIN", group=HYPER, minimum=0, help="Cosine: the lowest rate.")
    batchnorm_group_size: int = option(
        1, variable="BATCHNORM_GROUP_SIZE", group=HYPER, unit="ranks", minimum=1, log_keys=("batchnorm_group_size",),
        help="Ranks that share batch-norm statistics in training; groups of consecutive ranks, which may span nodes.",
    )
    gradient_accumulation_frequency: int = option(
        1, variable="GRADIENT_ACCUMULATION_FREQUENCY", group=HYPER, minimum=1, log_keys=("gradient_accumulation_frequency",),
        help="Local batches that are accumulated before each weight update.",
    )
    seed: int = option(
        333, variable="SEED", group=HYPER, minimum=1, maximum=2**32 - 1, log_keys=("seed",),
        help="Decides the initial weights and the data order.",
    )
    local_batch_size: int = option(1, variable="LOCAL_BATCH_SIZE", group=HYPER, unit="samples per rank", minimum=1, help="Local batch.")
    local_batch_size_validation: int = option(
        1, variable="LOCAL_VALIDATION_BATCH_SIZE", group=HYPER, unit="samples per rank", minimum=1, help="Local batch in validation."
    )
    target_iou: float = option(
        0.82, variable="TARGET_IOU", group=HYPER, above=0, maximum=1,
        help="Intersection over union at which the run ends; NERSC-10 asks 0.80.",
    )
    max_epochs: int = option(
        200, variable="MAX_EPOCHS", group=HYPER, unit="epochs", minimum=1, help="The run ends after these at the latest."
    )
    min_epochs: int = option(
        0, variable="MIN_EPOCHS", group=HYPER, unit="epochs", minimum=0,
        help="Goes on after the target until this epoch; 16 gives the NERSC-10 time for 16 epochs.",
    )
    width: float = option(
        1.0, variable="STORMBENCH_WIDTH", group=HYPER, above=0, maximum=1,
        help="Scales the network's channels, for rehearsals only; a closed-division run refuses values below 1.",
    )

    output_dir: Path = option(Path("results"), variable="LOGDIR", group=RUN, metavar="DIR", help="Run folders are made below this folder.")
    run_tag: str | None = option(
        None, variable="RUN_TAG", group=RUN,
        help="Name of the run folder; by default workload, time and seed. The same name continues a run that was stopped.",
    )
    experiment_id: int = option(
        1, variable="EXPERIMENT_ID", group=RUN, minimum=0, help="Number of the trial: its log is result_<experiment_id>.txt."
    )
    model_prefix: str = option("deepcam", variable="MODEL_PREFIX", group=RUN, help="Begins the names of the checkpoint files.")
    logging_frequency: int = option(
        0, variable="LOGGING_FREQUENCY", group=RUN, unit="steps", minimum=0,
        help="A line with loss, rate and samples/s every so many steps; 0 logs epochs only.",
    )
    save_frequency: int = option(
        0, variable="STORMBENCH_SAVE_FREQUENCY", group=RUN, unit="steps", minimum=0,
        help="Writes a checkpoint every so many steps; 0 writes one when the run is stopped (SIGUSR1) and at its end.",
    )
    checkpoint: Path | None = option(
        None, variable="STORMBENCH_CHECKPOINT", group=RUN, metavar="FILE",
        help="FILE, or auto (the default): the newest checkpoint of this very run, from which it goes on; "
        "where there is none it starts anew.",
    )
    disable_validation: bool = option(
        False, variable="STORMBENCH_DISABLE_VALIDATION", group=RUN, help="Trains max_epochs without validation: speed only, no accuracy."
    )
    wireup_method: str = option(
        "auto", variable="WIREUP_METHOD", group=RUN, choices=WIREUP_METHODS,
        help="How ranks find each other: auto takes NCCL where every rank has a GPU, else Gloo; dummy is one process alone.",
    )

    data_dir_prefix: Path | None = option(
        None, variable="DATADIR", group=DATA, metavar="DIR", help="Folder that holds train/, validation/ and stats.h5."
    )
    data_format: str = option(
        "hdf5", variable="DATA_FORMAT", group=DATA, choices=("hdf5", "numpy", "dummy"),
        help="Files to read: data-*.h5, or data-*.npy and label-*.npy; dummy makes random samples and reads nothing.",
    )
    channels: tuple[int, ...] = option(
        tuple(range(16)), variable="STORMBENCH_CHANNELS", group=DATA, minimum=0, maximum=15, metavar="C",
        help="Channels fed to the network, by position; all 16 in training, 0 1 2 10 in the inference benchmark.",
    )
    shuffle_mode: str = option(
        "global", variable="SHUFFLE_MODE", group=DATA, choices=("global", "node", "gpu"),
        help="Whether samples are dealt anew each epoch over all ranks, within a node's fixed share, or within a rank's.",
    )
    data_num_threads: int = option(
        2, variable="MAX_THREADS", group=DATA, unit="threads per rank", minimum=1, maximum=1024, help="Threads that read ahead."
    )
    dummy_height: int = option(
        768, variable="STORMBENCH_DUMMY_HEIGHT", group=DATA, unit="pixels", minimum=16, help="Frame height of dummy samples."
    )
    dummy_width: int = option(
        1152, variable="STORMBENCH_DUMMY_WIDTH", group=DATA, unit="pixels", minimum=16, help="Frame width of dummy samples."
    )
    dummy_train: int = option(64, variable="STORMBENCH_DUMMY_TRAIN", group=DATA, unit="samples", minimum=1, help="Dummy training samples.")
    dummy_validation: int = option(
        8, variable="STORMBENCH_DUMMY_VALIDATION", group=DATA, unit="samples", minimum=1, help="Dummy validation samples."
    )

    precision_mode: str = option(
        "fp32", variable="PRECISION_MODE", group=COMPUTE, choices=("fp32", "amp", "amp-bf16"),
        help="float32; mixed with float16 and loss scaling; or mixed with bfloat16.",
    )
    enable_nhwc: bool = option(False, variable="ENABLE_NHWC", group=COMPUTE, help="Keeps images and weights channels-last.")
    enable_jit: bool = option(False, variable="ENABLE_JIT", group=COMPUTE, help="Compiles the model with torch.compile.")
    deterministic: bool = option(
        False, variable="STORMBENCH_DETERMINISTIC", group=COMPUTE,
        help="Only deterministic kernels: the same numbers from the same seed on a GPU too.",
    )
    num_threads: int = option(
        0, variable="STORMBENCH_NUM_THREADS", group=COMPUTE, unit="threads per rank", minimum=0, maximum=1024,
        help="Compute threads of a rank on CPUs; 0 divides the cores that the process may use by the ranks on its node.",
    )
    timeout: float = option(
        600.0, variable="STORMBENCH_TIMEOUT", group=COMPUTE, unit="s", above=0,
        help="How long ranks wait for each other, at start and in a collective operation.",
    )

    submission_org: str = option("unspecified", variable="STORMBENCH_SUBMISSION_ORG", group=SUBMISSION, help="Organisation, for the log.")
    submission_division: str = option(
        "open", variable="STORMBENCH_SUBMISSION_DIVISION", group=SUBMISSION, choices=("closed", "open"), help="MLPerf division."
    )
    submission_status: str = option(
        "research", variable="STORMBENCH_SUBMISSION_STATUS", group=SUBMISSION, choices=("cloud", "onprem", "preview", "research"),
        help="Availability of the system.",
    )
    submission_platform: str | None = option(
        None, variable="STORMBENCH_SUBMISSION_PLATFORM", group=SUBMISSION, help="Name of the system; by default a description of the host."
    )
    cache_cleared: bool = option(
        False, variable="STORMBENCH_CACHE_CLEARED", group=SUBMISSION,
        help="Set by the job script when it has dropped the file caches of every node; logged as cache_clear.",
    )
    cache_reason: str = option(
        "no job script reported that it dropped the caches of every node", variable="STORMBENCH_CACHE_REASON", group=SUBMISSION,
        help="Why the caches were not cleared; logged with cache_clear.",
    )

    def validate(self, origins: Mapping[str, str]) -> None:
        """Check what holds between options. Raises UserError."""
        self._validate_schedule(origins)
        if self.min_epochs > self.max_epochs:
            raise UserError(
                f"{origins.get('min_epochs', '--min_epochs')}: above --max_epochs {self.max_epochs}; raise max_epochs or lower min_epochs"
            )
        if len(set(self.channels)) != len(self.channels) or not self.channels:
            raise UserError(f"{origins.get('channels', '--channels')}: needs at least one channel and none twice")
        if self.data_format != "dummy" and self.data_dir_prefix is None:
            raise UserError("--data_dir_prefix (or DATADIR) is not set; give the folder with train/, validation/ and stats.h5")
        for name, limit in (("run_tag", 200), ("model_prefix", 100)):
            value = getattr(self, name)
            if value is not None and (not value or "/" in value or value.startswith(".") or len(value) > limit or "\0" in value):
                where = origins.get(name, name)
                raise UserError(f"{where}: must be a plain file name of at most {limit} characters, without / or a leading dot")
        if self.submission_division == "closed":
            self._validate_closed(origins)

    def schedule(self, origins: Mapping[str, str] | None = None) -> Schedule:
        """Return the schedule, from its one option or from its pieces."""
        if self.lr_schedule is not None:
            return self.lr_schedule
        if self.lr_schedule_type is None:
            return Schedule()
        if self.lr_schedule_type == "cosine_annealing" and self.lr_t_max is None:
            where = (origins or {}).get("lr_schedule_type", "--lr_schedule_type cosine_annealing")
            raise UserError(f"{where}: needs --lr_t_max (or LR_T_MAX), the length of half a period in steps")
        return Schedule(
            type=self.lr_schedule_type,
            milestones=self.lr_milestones,
            decay_rate=self.lr_decay_rate,
            t_max=self.lr_t_max if self.lr_schedule_type == "cosine_annealing" else None,
            eta_min=self.lr_eta_min,
        )

    def global_batch_size(self, world_size: int) -> int:
        """Return the samples of one weight update: ranks x local batch x gradient accumulation."""
        return world_size * self.local_batch_size * self.gradient_accumulation_frequency

    def _validate_schedule(self, origins: Mapping[str, str]) -> None:
        """Check that the schedule is given once, or twice alike, and that its pieces have a type."""
        pieces = [name for name in SCHEDULE_PIECES if name in origins]
        if self.lr_schedule is not None:
            flags = [name for name in pieces if origins[name].startswith("--")]
            if flags:
                raise UserError(f"{origins['lr_schedule']} and {origins[flags[0]]} both give the schedule; choose one")
            if not origins.get("lr_schedule", "--").startswith("--"):
                for name in pieces:
                    if getattr(self, name) != getattr(self.lr_schedule, SCHEDULE_PIECES[name]):
                        raise UserError(f"{origins[name]} and {origins['lr_schedule']} disagree about the schedule; set only one of them")
        elif pieces and self.lr_schedule_type is None:
            where, what = origins[pieces[0]], SCHEDULE_PIECES[pieces[0]].replace("_", " ")
            needed = "--lr_schedule_type" if where.startswith("--") else "LR_SCHEDULE_TYPE"
            types = "multistep or cosine_annealing"
            raise UserError(f"{where}: needs {needed} ({types}), else the rate stays constant; set it, or leave the {what} out")
        self.schedule(origins)

    def _validate_closed(self, origins: Mapping[str, str]) -> None:
        division = origins.get("submission_division", "STORMBENCH_SUBMISSION_DIVISION=closed")
        for name in ("submission_org", "submission_status", "submission_platform"):
            if name not in origins:
                raise UserError(f"{division}: a closed run must name STORMBENCH_{name.upper()}; it is not set")
            value = (getattr(self, name) or "").strip()
            if value.lower() in ("", "unspecified"):
                raise UserError(f"{division}: a closed run must name STORMBENCH_{name.upper()}; it is {value or 'empty'}")
        refused = [
            (self.width < 1, f"--width {self.width:g} is for rehearsals; use 1"),
            (self.channels != tuple(range(16)), "--channels must be all 16 in order"),
            (self.data_format == "dummy", "--data_format dummy reads no data; use hdf5 or numpy"),
            (self.disable_validation, "--disable_validation leaves the target unproven; drop it"),
            (not self.cache_cleared, "STORMBENCH_CACHE_CLEARED must be 1: every node's file cache has to be dropped before the run"),
            (self.target_iou < 0.82, f"--target_iou {self.target_iou:g} must be at least 0.82"),
            (self.schedule().type is None, "--lr_schedule is required: multistep or cosine_annealing"),
            (self.start_lr <= 0, "--start_lr must be above 0"),
        ]
        for wrong, why in refused:
            if wrong:
                raise UserError(f"{division}: {why}")
