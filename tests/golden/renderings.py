"""Renders what the tree keeps: run.sub, init_datasets.sub and the job of every shipped config. As a program it renews them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from stormbench.job.load import load
from stormbench.job.render import render, render_init_datasets, render_run_sub

ROOT = Path(__file__).parents[2]
JOBS = Path(__file__).parent / "jobs"
ENDING = {"slurm": ".sub", "lsf": ".job", "pbs": ".job", "local": ".sh", "docker": ".sh"}
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("config_*.sh"))
# only what every machine has: nothing of the user's environment or configs/data.sh may enter a file of the tree
ENVIRONMENT = {"HOME": "/root", "PATH": "/usr/bin:/bin"}


def untouched_configs(folder: Path) -> Path:
    """Return a copy of the shipped configs in `folder`, without the user's data.sh."""
    return Path(shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("data.sh")))


def rendering(configs: Path, name: str, **overrides: str) -> tuple[str, str]:
    """Return the file name and text of a config's job."""
    job = load(configs / name, ENVIRONMENT, overrides)
    assert not job.errors, [str(finding) for finding in job.errors]
    return name.removesuffix(".sh").removeprefix("config_") + ENDING[job.config.scheduler], render(job)


def main() -> None:
    """Write all files anew."""
    shutil.rmtree(JOBS, ignore_errors=True)
    JOBS.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        configs = untouched_configs(Path(folder))
        for name in CONFIGS:
            target, text = rendering(configs, name)
            (JOBS / target).write_text(text)
    for target, text in (("run.sub", render_run_sub()), ("init_datasets.sub", render_init_datasets())):
        (ROOT / target).write_text(text)
        (ROOT / target).chmod(0o755)
    print(f"{len(CONFIGS)} jobs in {JOBS.relative_to(ROOT)}, run.sub and init_datasets.sub are renewed")


if __name__ == "__main__":
    main()
