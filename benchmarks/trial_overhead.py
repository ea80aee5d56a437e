"""What the trial loop of a Slurm job costs beyond srun's own start, for each trial, on a real Slurm with a workload that does nothing.

    python benchmarks/trial_overhead.py      (as root, with Slurm installed; see tests/cluster)

A trial is a launch by srun, the job-side entry on each rank, and the official checker on the log. Its workload here is a program
that leaves a finished log and ends: the time from one trial's start to the next, less what a plain srun takes, is the loop's own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.cluster.slurm import Cluster, why_impossible
from tests.conftest import clean_environment

ROOT = Path(__file__).parents[1]
LIMIT_S = 2.0
STUB = """\
#!/bin/bash
if [ "$1 $2" = "deepcam train" ]; then
    if [ "${SLURM_PROCID:-0}" = 0 ]; then
        date +%s.%N >>"$STARTS"
        cp "$LOG" "$LOGDIR/$RUN_TAG/result_$EXPERIMENT_ID.txt"
    fi
    exit 0
fi
exec "$PYTHON" -m stormbench "$@"
"""


def main() -> int:
    """Print the medians and whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    trials = parser.parse_args().trials
    why = why_impossible()
    if why:
        print(why, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = finished_log(folder)
        (folder / "cluster").mkdir()
        (folder / "bin").mkdir()
        stub = folder / "bin" / "stormbench"
        stub.write_text(STUB)
        stub.chmod(0o755)
        with Cluster(folder / "cluster") as slurm:
            plain, cycles = measure(slurm, folder, log, trials)
    cost = statistics.median(cycles) - statistics.median(plain)
    print(f"plain srun of 4 ranks on 2 nodes   {statistics.median(plain):6.2f} s (median of {len(plain)})")
    print(f"trial to trial                     {statistics.median(cycles):6.2f} s (median of {len(cycles)})")
    print(f"the loop's own cost for each trial {cost:6.2f} s (limit {LIMIT_S:g})")
    return int(cost > LIMIT_S)


def finished_log(folder: Path) -> Path:
    """Return the log of a real run, made here."""
    words = ["deepcam", "train", "--data_format", "dummy", "--dummy_height", "16", "--dummy_width", "32", "--dummy_train", "4",
             "--dummy_validation", "2", "--width", "0.05", "--max_epochs", "1", "--local_batch_size", "2", "--output_dir", str(folder),
             "--run_tag", "made"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "stormbench", *words], check=True, capture_output=True, env=clean_environment())
    return folder / "made" / "result_1.txt"


def measure(slurm: Cluster, folder: Path, log: Path, trials: int) -> tuple[list[float], list[float]]:
    """Return the seconds of plain sruns and of trials, from one job each on the same nodes."""
    words = ["srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=1", "true"]
    script = folder / "plain.sh"
    times = f"for i in $(seq {trials}); do a=$(date +%s.%N); {' '.join(words)}; echo $a $(date +%s.%N); done"
    script.write_text(f"#!/bin/bash\n{times}\n")
    done(slurm, folder, ["sbatch", "--parsable", "-N2", "--exclusive", "--output=plain.out", str(script)])
    pairs = [line.split() for line in (folder / "plain.out").read_text().splitlines()]
    variables = {
        "DGXSYSTEM": "EMU", "DGXNNODES": "2", "DGXNGPU": "2", "WALLTIME": "10", "NEXP": str(trials), "STORMBENCH_CORES_PER_RANK": "1",
        "LOGDIR": str(folder / "results"), "DATA_FORMAT": "dummy", "STARTS": str(folder / "starts"), "LOG": str(log),
        "PYTHON": sys.executable,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    exports = "".join(f"export {name}='{value}'; " for name, value in variables.items())
    submit = f"{exports} sbatch --parsable -N2 -t 10 --exclusive --output=job.out {ROOT / 'run.sub'}"
    done(slurm, folder, ["bash", "-c", submit])
    starts = [float(line) for line in (folder / "starts").read_text().split()]
    assert len(starts) == trials, (folder / "job.out").read_text()
    return [float(end) - float(begin) for begin, end in pairs], [b - a for a, b in itertools.pairwise(starts)]


def done(slurm: Cluster, folder: Path, words: list[str]) -> None:
    """Submit and wait for success."""
    submitted = slurm.run(*words, folder=folder)
    assert submitted.returncode == 0, submitted.stderr
    state = slurm.ended(submitted.stdout.strip())
    assert state == "COMPLETED", "".join(path.read_text() for path in folder.glob("*.out"))


if __name__ == "__main__":
    sys.exit(main())
