"""Every option of CloudMask training, each declared once, and the rules that hold between them. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from stormbench.core.errors import UserError
from stormbench.core.options import BLANKS, option

HYPER, RUN, DATA, COMPUTE, SUBMISSION = "hyperparameters", "run", "data", "compute", "submission"
PATCH_MULTIPLE = 8
"""The U-Net halves a patch three times."""
STRATEGIES = ("auto", "horovod", "mirrored", "multiworker", "none")
CACHES = MEMORY, DISK, NONE = ("memory", "disk", "none")
SPLITS = ("orbit", "time", "random")


def _on_off_auto(text: str) -> bool | None:
    """Return the choice that a switch with a third position makes, None for auto. Raises ValueError."""
    choices = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False, "auto": None}
    word = text.strip(BLANKS).lower()
    if word not in choices:
        raise ValueError("must be on, off or auto")
    return choices[word]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run of the cloud-mask U-Net. Defaults are the published ones. Build it by `core.options.resolve`."""

    epochs: int = option(
        30, variable="STORMBENCH_CLOUDMASK_EPOCHS", group=HYPER, unit="epochs", minimum=1, log_keys=("epochs",), help="Epochs to train."
    )
    batch_size: int = option(
        32, variable="STORMBENCH_CLOUDMASK_BATCH_SIZE", group=HYPER, unit="patches per rank", minimum=1, log_keys=("local_batch_size",),
        help="Local batch.",
    )
    learning_rate: float = option(
        0.001, variable="STORMBENCH_CLOUDMASK_LEARNING_RATE", group=HYPER, above=0, help="Learning rate of Adam."
    )
    scale_lr: bool = option(
        False, variable="STORMBENCH_CLOUDMASK_SCALE_LR", group=HYPER, log_keys=("opt_learning_rate_scaled",),
        help="Multiplies the learning rate by the number of ranks.",
    )
    lr_warmup_steps: int = option(
        0, variable="STORMBENCH_CLOUDMASK_LR_WARMUP_STEPS", group=HYPER, unit="steps", minimum=0,
        log_keys=("opt_learning_rate_warmup_steps",),
        help="Steps of linear warm-up; the learning rate, scaled or not, is reached at the last of them.",
    )
    loss: str = option(
        "weighted", variable="STORMBENCH_CLOUDMASK_LOSS", group=HYPER, choices=("weighted", "bce"), log_keys=("loss",),
        help="Weighted cross entropy (end-to-end form) or plain binary cross entropy (MLCommons form).",
    )
    wbce: float = option(
        0.5, variable="STORMBENCH_CLOUDMASK_WBCE", group=HYPER, above=0, help="Weight of the cloud class in the weighted loss."
    )
    clip_offset: int = option(
        15, variable="STORMBENCH_CLOUDMASK_CLIP_OFFSET", group=HYPER, unit="pixels", minimum=0, log_keys=("clip_offset",),
        help="Pixels at each edge of a patch that loss and scores leave out.",
    )
    patch_size: int = option(
        256, variable="STORMBENCH_CLOUDMASK_PATCH_SIZE", group=HYPER, unit="pixels", minimum=8, maximum=1024, log_keys=("patch_size",),
        help="Edge of a training patch, a multiple of 8; 256 or 512 in the published forms.",
    )
    train_split: float = option(
        0.8, variable="STORMBENCH_CLOUDMASK_TRAIN_SPLIT", group=HYPER, above=0, below=1, log_keys=("train_split",),
        help="Share of the products to train on.",
    )
    target_accuracy: float = option(
        0.9, variable="STORMBENCH_CLOUDMASK_TARGET_ACCURACY", group=HYPER, above=0, maximum=1,
        help="Accuracy on the test split that counts as converged.",
    )
    stop_at_target: bool = option(
        False, variable="STORMBENCH_CLOUDMASK_STOP_AT_TARGET", group=HYPER,
        help="Ends the run with the epoch that reaches the target; otherwise all epochs are trained, as published.",
    )
    seed: int = option(
        1234, variable="SEED", group=HYPER, minimum=1, maximum=2**32 - 1, log_keys=("seed",),
        help="Decides the initial weights, the split and the order.",
    )
    width: float = option(
        1.0, variable="STORMBENCH_WIDTH", group=HYPER, above=0, maximum=1, log_keys=("model_width",),
        help="Scales the network's channels, for rehearsals only.",
    )

    output_dir: Path = option(Path("results"), variable="LOGDIR", group=RUN, metavar="DIR", help="Run folders are made below this folder.")
    run_tag: str | None = option(
        None, variable="RUN_TAG", group=RUN,
        help="Name of the run folder; by default workload, time and seed. The same name continues a run that was stopped.",
    )
    experiment_id: int = option(
        1, variable="EXPERIMENT_ID", group=RUN, minimum=0, help="Number of the trial: its log is result_<experiment_id>.txt."
    )
    logging_frequency: int = option(
        0, variable="LOGGING_FREQUENCY", group=RUN, unit="steps", minimum=0,
        help="A line with loss, rate and patches/s every so many steps; 0 logs epochs only.",
    )
    save_frequency: int = option(
        0, variable="STORMBENCH_SAVE_FREQUENCY", group=RUN, unit="steps", minimum=0,
        help="Writes a checkpoint every so many steps too; 0 writes one after each epoch and when the run is stopped (SIGUSR1).",
    )
    save_epochs: bool = option(
        False, variable="STORMBENCH_CLOUDMASK_SAVE_EPOCHS", group=RUN, help="Keeps every epoch's model, not only the best and the last."
    )
    checkpoint: Path | None = option(
        None, variable="STORMBENCH_CHECKPOINT", group=RUN, metavar="FILE",
        help="FILE to start from, or auto: the newest checkpoint of an unfinished run below output_dir, which then goes on. "
        "A run whose folder --run_tag names always goes on.",
    )
    strategy: str = option(
        "auto", variable="STORMBENCH_CLOUDMASK_STRATEGY", group=RUN, choices=STRATEGIES,
        help="How ranks train together. auto: several ranks by horovod where it is installed, else by multiworker; "
        "one process on several GPUs by mirrored, on one device by none.",
    )
    replicas: int = option(
        0, variable="STORMBENCH_CLOUDMASK_REPLICAS", group=RUN, unit="devices per process", minimum=0, maximum=1024,
        help="Devices that one process trains on with mirrored and multiworker; 0 takes every GPU that it sees, or the CPU as one.",
    )

    data_dir: Path | None = option(None, variable="DATADIR", group=DATA, metavar="DIR", help="Folder with the converted products.")
    split: str = option(
        "orbit", variable="STORMBENCH_CLOUDMASK_SPLIT", group=DATA, choices=SPLITS,
        help="What stays together on one side of the split: whole orbits (blocks of time where there are too few orbits), "
        "blocks of time, or nothing: random, as published, which leaks between neighbouring images.",
    )
    split_file: Path | None = option(
        None, variable="STORMBENCH_CLOUDMASK_SPLIT_FILE", group=DATA, metavar="FILE",
        help="Manifest of the split, reused if it is there and written if not; by default split.json in the run folder.",
    )
    cloud_bits: int = option(
        0xFF, variable="STORMBENCH_CLOUDMASK_CLOUD_BITS", group=DATA, minimum=1, maximum=0xFF, log_keys=("cloud_bits",),
        help="Bits of the Bayesian mask that count as cloud, added up; 255 is any, as published.",
    )
    cache: str = option(
        "memory", variable="STORMBENCH_CLOUDMASK_CACHE", group=DATA, choices=CACHES, log_keys=("cache",),
        help="Where patches are kept after their first reading. Unless it is given, memory gives way to disk, and disk to none, "
        "where the room is not there.",
    )
    no_cache: bool = option(
        False, variable="STORMBENCH_CLOUDMASK_NO_CACHE", group=DATA, help="The same as --cache none: patches are read anew in each epoch."
    )
    cache_dir: Path | None = option(
        None, variable="STORMBENCH_CLOUDMASK_CACHE_DIR", group=DATA, metavar="DIR",
        help="Folder for --cache disk, best on a disk of the node; by default that for temporary files.",
    )
    data_threads: int = option(
        2, variable="STORMBENCH_CLOUDMASK_DATA_THREADS", group=DATA, unit="threads per rank", minimum=1, maximum=256,
        help="Threads that read ahead.",
    )

    precision: str = option(
        "fp32", variable="STORMBENCH_CLOUDMASK_PRECISION", group=COMPUTE, choices=("fp32", "bf16", "mixed"), log_keys=("precision",),
        help="float32; bfloat16 with float32 weights; or mixed: float16 with float32 weights and loss scaling.",
    )
    xla: bool = option(False, variable="STORMBENCH_CLOUDMASK_XLA", group=COMPUTE, help="Compiles the step with XLA.")
    onednn: bool | None = option(
        None, variable="STORMBENCH_CLOUDMASK_ONEDNN", group=COMPUTE, convert=_on_off_auto, pattern="1|0|true|false|on|off|auto",
        help="on uses oneDNN's kernels on CPUs, off TensorFlow's own; unless given, or with auto, TensorFlow chooses by the "
        "processor. What was used is in run.json and in the table's row.",
    )
    intra_threads: int = option(
        0, variable="STORMBENCH_CLOUDMASK_INTRA_THREADS", group=COMPUTE, unit="threads per rank", minimum=0, maximum=1024,
        help="Threads within one operation on CPUs; 0 divides the cores that the process may use by the ranks on its node.",
    )
    inter_threads: int = option(
        0, variable="STORMBENCH_CLOUDMASK_INTER_THREADS", group=COMPUTE, unit="threads per rank", minimum=0, maximum=1024,
        help="Operations at a time on CPUs; 0 takes as many as intra_threads, at most 2.",
    )
    cpu_only: bool = option(False, variable="STORMBENCH_CLOUDMASK_CPU_ONLY", group=COMPUTE, help="Uses no GPU.")
    deterministic: bool = option(
        False, variable="STORMBENCH_DETERMINISTIC", group=COMPUTE,
        help="Only deterministic kernels: the same numbers from the same seed on a GPU too.",
    )
    timeout: float = option(
        600.0, variable="STORMBENCH_TIMEOUT", group=COMPUTE, unit="s", above=0,
        help="How long ranks wait for each other, at start and in a step.",
    )

    submission_org: str = option("unspecified", variable="STORMBENCH_SUBMISSION_ORG", group=SUBMISSION, help="Organisation, for the log.")
    submission_division: str = option(
        "open", variable="STORMBENCH_SUBMISSION_DIVISION", group=SUBMISSION, choices=("open",),
        help="MLCommons division; the Science working group takes submissions to the open one only.",
    )
    submission_status: str = option(
        "research", variable="STORMBENCH_SUBMISSION_STATUS", group=SUBMISSION,
        choices=("cloud", "onprem", "preview", "research", "submission"), help="Availability of the system.",
    )
    submission_platform: str | None = option(
        None, variable="STORMBENCH_SUBMISSION_PLATFORM", group=SUBMISSION, help="Name of the system; by default a description of the host."
    )
    submission_version: str | None = option(
        None, variable="STORMBENCH_SUBMISSION_VERSION", group=SUBMISSION, help="Version of the submission; by default that of stormbench."
    )
    best_of: int = option(
        1, variable="STORMBENCH_BEST_OF", group=SUBMISSION, minimum=1, log_keys=("best_of",),
        help="Of how many runs this is one, where the best is submitted.",
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
        if self.patch_size % PATCH_MULTIPLE:
            where = origins.get("patch_size", "--patch_size")
            raise UserError(f"{where}: must be a multiple of {PATCH_MULTIPLE}, as the network halves a patch three times")
        if 2 * self.clip_offset >= self.patch_size:
            where = origins.get("clip_offset", f"--clip_offset {self.clip_offset}")
            raise UserError(f"{where}: leaves nothing of a patch of {self.patch_size} pixels; use less than {self.patch_size // 2}")
        if self.no_cache and "cache" in origins and self.cache != NONE:
            raise UserError(f"{origins.get('no_cache', '--no_cache')} and {origins['cache']} contradict each other; choose one")
        tag = self.run_tag
        if tag is not None and (not tag or "/" in tag or tag.startswith(".") or len(tag) > 200 or "\0" in tag):
            where = origins.get("run_tag", "--run_tag")
            raise UserError(f"{where}: must be a plain file name of at most 200 characters, without / or a leading dot")

    @property
    def beta(self) -> float:
        """Weight of the cloud class in the loss that is minimised."""
        return self.wbce if self.loss == "weighted" else 1.0

    @property
    def kept_pixels(self) -> int:
        """Pixels of a patch that count in loss and scores."""
        return (self.patch_size - 2 * self.clip_offset) ** 2

    def cache_wanted(self) -> str:
        """Return where patches are to be kept, from the two options for it."""
        return NONE if self.no_cache else self.cache
