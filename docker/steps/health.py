"""Whether an image is what it promises: everything imports, and its MPI is of the promised kind. The health check runs it.

With --device also what only imports where a GPU and its driver are there. What is promised stands in images.toml.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import tomllib

MPI = {"openmpi": "Open MPI", "hpcx": "Open MPI", "mpich": "MPICH"}
"""How each kind begins the text of its version. A Cray's MPI, which replaces MPICH, names MPICH in it too."""


def promises() -> dict[str, Any]:
    """Return the table of this image and variant."""
    image, variant = os.environ["STORMBENCH_IMAGE"].split(".", 1)
    return tomllib.loads(Path(__file__).with_name("images.toml").read_text())[image][variant]


def main(words: list[str]) -> int:
    """Return 0 if all is well; print what isn't to standard error, and what was found to standard output."""
    promised = promises()
    names = promised["imports"] + (promised["device_imports"] if "--device" in words else [])
    wrong = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever a broken package raises is the finding
            wrong.append(f"{name} doesn't import: {type(error).__name__}: {error}")
        else:
            print(name, getattr(module, "__version__", ""))
            if getattr(module, "__file__", None) is None:
                # a folder without code imports as well
                wrong.append(f"{name} holds no code, only a folder of that name is there")
    if "mpi4py.MPI" in sys.modules:
        told = sys.modules["mpi4py.MPI"].Get_library_version().strip("\0").splitlines()[0]
        print("MPI", told)
        if MPI[promised["mpi"]] not in told:
            wrong.append(f"the MPI library is {told}, promised is {promised['mpi']}")
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
