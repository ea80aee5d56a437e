"""Every option of a job that is no workload's own: where it runs, how large it is, how it is launched, repeated and continued."""

from __future__ import annotations

import dataclasses

from stormbench.core.options import option
from stormbench.core.workloads import WORKLOADS
from stormbench.job import values
from stormbench.job.values import parse_limits, parse_mounts, parse_name, parse_names, parse_rank_cores, parse_walltime

SCHEDULERS = ("slurm", "lsf", "pbs", "local", "docker")
RUNTIMES = ("pyxis", "apptainer", "shifter", "podman-hpc", "docker", "none")
RUNTIMES_OF = {
    "slurm": ("pyxis", "apptainer", "shifter", "podman-hpc", "none"), "lsf": ("apptainer", "none"), "pbs": ("apptainer", "none"),
    "local": ("apptainer", "docker", "none"), "docker": ("docker",),
}  # fmt: skip
"""Which runtimes a job of each scheduler can use."""
LAUNCHERS_OF = {
    "slurm": ("auto", "srun", "torchrun"), "lsf": ("auto", "jsrun"), "pbs": ("auto", "mpiexec"), "local": ("auto", "torchrun", "mpirun"),
    "docker": ("auto", "torchrun", "mpirun"),
}  # fmt: skip
"""Which launchers the script of each scheduler knows."""
LAUNCHERS = ("auto", "srun", "jsrun", "mpiexec", "mpirun", "torchrun")
WARNING_S = 300
JOB, LAUNCH, SYSTEM = "job", "launch", "system"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """One job on one system. The names that MLPerf's kits gave are kept; those without precedent begin with STORMBENCH_."""

    system: str | None = option(None, variable="DGXSYSTEM", group=JOB, help="Name of the system, as in the config's file name.")
    nodes: int = option(1, variable="DGXNNODES", group=JOB, unit="nodes", minimum=1, maximum=100000, help="Nodes of the job.")
    ranks_per_node: int = option(
        1, variable="DGXNGPU", group=JOB, unit="ranks per node", minimum=1, maximum=1024,
        help="Ranks on each node: one for each accelerator, or on CPU nodes one for each NUMA domain.",
    )
    walltime: int | None = option(
        None, variable="WALLTIME", group=JOB, convert=parse_walltime, metavar="TIME", pattern=values.WALLTIME,
        help="Time limit of the job: minutes, HH:MM:SS or D-HH:MM:SS.",
    )
    trials: int = option(
        1, variable="NEXP", group=JOB, unit="trials", minimum=1, maximum=1000, help="Trials in one job, each with its own seed.",
    )
    container: str | None = option(None, variable="CONT", group=JOB, help="Container image: a registry's name, or a .sqsh or .sif file.")
    datestamp: str | None = option(
        None, variable="DATESTAMP", group=JOB, convert=parse_name, pattern=values.NAME,
        help="Goes into the run folder's name; by default the job's id.",
    )
    clear_caches: bool = option(
        False, variable="CLEAR_CACHES", group=JOB, help="Drops the file caches of every node before each trial, where the site allows it."
    )
    instance_size: int = option(
        0, variable="TRAINING_INSTANCE_SIZE", group=JOB, unit="ranks", minimum=0, maximum=10**7,
        help="Ranks of one instance in weak scaling, where several independent models train side by side; 0 is one model over all ranks.",
    )
    additional_args: str = option("", variable="ADDITIONAL_ARGS", group=JOB, help="Further words for the workload, split at blanks.")
    profiling: bool = option(
        False, variable="ENABLE_PROFILING", group=JOB, help="Runs rank 0 of each node under nsys, which must be on the nodes.",
    )
    nccl_test: bool = option(False, variable="NCCL_TEST", group=JOB, help="Runs an all-reduce test over all ranks before the first trial.")
    check_compliance: bool = option(True, variable="CHECK_COMPLIANCE", group=JOB, help="Judges each trial's log by the official checker.")
    ruleset: str = option("3.0.0", variable="MLPERF_RULESET", group=JOB, choices=("3.0.0",), help="MLPerf HPC rules to check by.")
    benchmark: str = option(
        "deepcam", variable="STORMBENCH_BENCHMARK", group=JOB, choices=tuple(WORKLOADS), help="The workload that the job runs."
    )
    nersc10: str = option(
        "no", variable="STORMBENCH_NERSC10", group=JOB, choices=("no", "baseline", "optimized"),
        help="Whether the run claims to be NERSC-10's, whose rules are then enforced.",
    )
    warning_s: int | None = option(
        None, variable="STORMBENCH_WARNING", group=JOB, unit="s", minimum=0, maximum=86400,
        help="How long before its time limit the job stops the workload, which then writes a checkpoint; 0 never does. "
        "By default 300, or a quarter of a limit that is shorter than 20 minutes.",
    )
    requeues: int = option(
        3, variable="STORMBENCH_MAX_REQUEUES", group=JOB, minimum=0, maximum=1000,
        help="How often a job that met its time limit may queue itself again to go on.",
    )
    seeds: tuple[int, ...] = option(
        (), variable="STORMBENCH_SEEDS", group=JOB, minimum=1, maximum=2**32 - 1, metavar="SEED",
        help="Seeds of a job array, one for each of its jobs.",
    )

    scheduler: str = option("slurm", variable="STORMBENCH_SCHEDULER", group=LAUNCH, choices=SCHEDULERS, help="The batch scheduler.")
    runtime: str = option(
        "none", variable="STORMBENCH_RUNTIME", group=LAUNCH, choices=RUNTIMES,
        help="The container runtime; none runs on the node itself.",
    )
    launcher: str = option(
        "auto", variable="STORMBENCH_LAUNCHER", group=LAUNCH, choices=LAUNCHERS,
        help="What starts the ranks; auto is the scheduler's own, and torchrun or mpirun where there is none.",
    )
    mpi: str | None = option(None, variable="STORMBENCH_MPI", group=LAUNCH, help="srun's --mpi, such as pmix or pmi2.")
    launch_args: str = option(
        "", variable="STORMBENCH_LAUNCH_ARGS", group=LAUNCH, help="Further words for srun, jsrun or mpiexec, split at blanks.",
    )
    directives: str = option(
        "", variable="STORMBENCH_DIRECTIVES", group=LAUNCH, help="Further directives of a rendered job script, separated by semicolons."
    )
    tasks_in_directives: bool = option(
        True, variable="STORMBENCH_TASKS_IN_DIRECTIVES", group=LAUNCH,
        help="Whether the directives ask for tasks and cores; sites that refuse this get them from the launcher alone.",
    )
    entry: str | None = option(
        None, variable="STORMBENCH_ENTRY", group=LAUNCH,
        help="run_and_time.sh as the ranks see it; by default /workspace/run_and_time.sh in a container, "
        "else the one beside the job script.",
    )
    home: str | None = option(
        None, variable="STORMBENCH_HOME", group=LAUNCH,
        help="The kit's folder on the nodes, for jobs without a container; by default the one of the submission, or the script's own.",
    )
    mounts: tuple[str, ...] = option(
        (), variable="STORMBENCH_MOUNTS", group=LAUNCH, convert=parse_mounts, metavar="SRC:DST", pattern=values.MOUNT,
        help="Further mounts of the container, separated by blanks.",
    )
    export_names: tuple[str, ...] = option(
        (), variable="STORMBENCH_EXPORT", group=LAUNCH, convert=parse_names, metavar="NAME",
        help="Further environment variables that a config may set and that enter the container.",
    )
    modules: tuple[str, ...] = option(
        (), variable="STORMBENCH_MODULES", group=LAUNCH, convert=parse_names, metavar="MODULE",
        help="Modules that the job loads.",
    )
    venv: str | None = option(
        None, variable="STORMBENCH_VENV", group=LAUNCH, help="Virtual environment on the nodes, for jobs without a container.",
    )
    scratch: str = option("/tmp", variable="STORMBENCH_SCRATCH", group=LAUNCH, help="Folder on each node for caches and temporary files.")
    bind: str = option(
        "auto", variable="STORMBENCH_BIND", group=LAUNCH, choices=("auto", "none"),
        help="auto binds each rank to its cores, memory and network card where the launcher has not; none leaves it alone.",
    )
    rank_cores: tuple[str, ...] = option(
        (), variable="STORMBENCH_RANK_CORES", group=LAUNCH, convert=parse_rank_cores, metavar="CORES", pattern=values.RANK_CORES,
        help="Cores of each local rank, such as 48-63 32-47 16-31 0-15; by default equal shares in order.",
    )
    nics: tuple[str, ...] = option(
        (), variable="STORMBENCH_NICS", group=LAUNCH, convert=parse_names, metavar="NIC",
        help="Network card of each local rank, in order, such as mlx5_0 mlx5_1.",
    )

    cores_per_node: int = option(
        0, variable="STORMBENCH_CORES_PER_NODE", group=SYSTEM, unit="cores", minimum=0, maximum=65536,
        help="Usable cores of a node; 0 is unknown.",
    )
    cores_per_rank: int = option(
        0, variable="STORMBENCH_CORES_PER_RANK", group=SYSTEM, unit="cores", minimum=0, maximum=65536,
        help="Cores of a rank; 0 shares the node's out.",
    )
    gpus_per_node: int = option(
        0, variable="STORMBENCH_GPUS_PER_NODE", group=SYSTEM, unit="GPUs", minimum=0, maximum=1024, help="GPUs of a node.",
    )
    gpu_type: str | None = option(
        None, variable="STORMBENCH_GPU_TYPE", group=SYSTEM,
        help="Type in Slurm's --gres, such as a100, where the site asks for one.",
    )
    gpu_memory: float = option(
        0.0, variable="STORMBENCH_GPU_MEMORY", group=SYSTEM, unit="GB", minimum=0, maximum=10000,
        help="Memory of one GPU; 0 is unknown.",
    )
    node_memory: float = option(
        0.0, variable="STORMBENCH_NODE_MEMORY", group=SYSTEM, unit="GB", minimum=0, maximum=10**6,
        help="Memory of a node; 0 is unknown.",
    )
    gpu_vendor: str = option("none", variable="STORMBENCH_GPU_VENDOR", group=SYSTEM, choices=("nvidia", "amd", "none"), help="Whose GPUs.")
    gpu_request: str = option(
        "gpus-per-node", variable="STORMBENCH_GPU_REQUEST", group=SYSTEM, choices=("gpus-per-node", "gres", "gpus", "none"),
        help="How Slurm is asked for GPUs.",
    )
    queue: str | None = option(None, variable="STORMBENCH_QUEUE", group=SYSTEM, help="Queue of LSF or PBS.")
    select: str | None = option(
        None, variable="STORMBENCH_SELECT", group=SYSTEM,
        help="What PBS's select asks for beside cores and GPUs, such as system=polaris.",
    )
    limits: tuple[tuple[str, dict[str, int]], ...] = option(
        (), variable="STORMBENCH_LIMITS", group=SYSTEM, convert=parse_limits, metavar="LIMITS", pattern=values.LIMITS,
        help="Limits of each QoS or queue, such as short:nodes=32,minutes=20 standard:nodes=1024,minutes=1440.",
    )
    architecture: str = option(
        "x86_64", variable="STORMBENCH_ARCH", group=SYSTEM, choices=("x86_64", "aarch64", "ppc64le"), help="Instruction set of the nodes."
    )
    hosts: tuple[str, ...] = option(
        (), variable="STORMBENCH_HOSTS", group=SYSTEM, convert=parse_names, metavar="PATTERN",
        help="Host names of the machine that the config is meant for, such as login*.example.org; there, a missing path is an error.",
    )
    unverified: bool = option(
        False, variable="STORMBENCH_UNVERIFIED", group=SYSTEM, help="Says that no site document confirms the system's facts.",
    )

    def stop_before_limit(self) -> int:
        """Return how many seconds before its time limit the job stops the workload; 0 is never."""
        if self.warning_s is not None:
            return self.warning_s
        return WARNING_S if self.walltime is None else min(WARNING_S, self.walltime // 4)
