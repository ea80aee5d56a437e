"""What a rehearsal has instead of the real thing, for each workload: values that a laptop can do in seconds, and generated data."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

from stormbench.core.errors import RunError

HEIGHT, WIDTH = 32, 48
TRAIN, VALIDATION = 16, 4
SCENES, SCENE_HEIGHT, SCENE_WIDTH = 4, 256, 256
PLACE = "PLACE"
"""In a command, the folder of the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """What each rank has instead of the config's values, and the commands that make the data in a folder.

    `raw` is a folder in it that the commands need only meanwhile.
    """

    values: dict[str, str]
    commands: tuple[tuple[str, ...], ...]
    data: str
    raw: str | None = None

    def make(self, folder: Path) -> None:
        """Make the data in `folder`, or keep what is there.

        Raises:
            RunError: a command failed, with its last line.
        """
        for command in self.commands:
            words = [word.replace(PLACE, str(folder)) for word in command]
            done = subprocess.run([sys.executable, "-m", "stormbench", *words], capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.strip().splitlines()
                raise RunError(f"the generated data could not be made: {said[-1] if said else f'exit code {done.returncode}'}")
        if self.raw is not None:
            shutil.rmtree(folder / self.raw, ignore_errors=True)


SCALINGS = {
    "deepcam": Scaling(
        values={
            "STORMBENCH_WIDTH": "0.05", "MAX_EPOCHS": "1", "MIN_EPOCHS": "0", "TARGET_IOU": "1", "LOCAL_BATCH_SIZE": "2",
            "LOCAL_VALIDATION_BATCH_SIZE": "1", "GRADIENT_ACCUMULATION_FREQUENCY": "1", "BATCHNORM_GROUP_SIZE": "1",
            "PRECISION_MODE": "fp32", "DATA_FORMAT": "hdf5", "WIREUP_METHOD": "auto", "MAX_THREADS": "1", "OMP_NUM_THREADS": "1",
            "ENABLE_PROFILING": "0", "STORMBENCH_NUM_THREADS": "1", "STORMBENCH_SUBMISSION_DIVISION": "open",
        },
        commands=(
            ("deepcam", "synth", PLACE, "--train", str(TRAIN), "--validation", str(VALIDATION), "--height", str(HEIGHT),
             "--width", str(WIDTH)),
        ),
        data=f"{TRAIN} generated samples of {HEIGHT} x {WIDTH}",
    ),
    "cloudmask": Scaling(
        values={
            "STORMBENCH_WIDTH": "0.05", "STORMBENCH_CLOUDMASK_EPOCHS": "1", "STORMBENCH_CLOUDMASK_TARGET_ACCURACY": "1",
            "STORMBENCH_CLOUDMASK_BATCH_SIZE": "2", "STORMBENCH_CLOUDMASK_PATCH_SIZE": "256",
            "STORMBENCH_CLOUDMASK_PRECISION": "fp32", "STORMBENCH_CLOUDMASK_XLA": "0", "STORMBENCH_CLOUDMASK_CACHE": "none",
            # any launcher starts these ranks, and Horovod is part of images rather than of a laptop
            "STORMBENCH_CLOUDMASK_STRATEGY": "multiworker", "STORMBENCH_CLOUDMASK_REPLICAS": "0",
            "STORMBENCH_CLOUDMASK_INTRA_THREADS": "1", "STORMBENCH_CLOUDMASK_SPLIT_FILE": "", "OMP_NUM_THREADS": "1",
            "ENABLE_PROFILING": "0",
        },
        commands=(
            ("cloudmask", "synth", f"{PLACE}/raw", "--products", str(SCENES), "--height", str(SCENE_HEIGHT), "--width", str(SCENE_WIDTH)),
            ("cloudmask", "convert-hdf", f"{PLACE}/raw", PLACE),
        ),
        data=f"{SCENES} generated products of {SCENE_HEIGHT} x {SCENE_WIDTH}",
        raw="raw",
    ),
}  # fmt: skip
