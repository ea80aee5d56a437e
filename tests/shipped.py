"""The shipped configs, sourced by a plain bash as a user's shell would: shared by the tests of the configs and of the sites."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("config_*.sh"))
BARE = {"HOME": "/nonexistent", "PATH": "/usr/local/bin:/usr/bin:/bin"}
Exported = dict[str, str]


def sourced(*paths: Path, cwd: Path = Path("/"), environ: Exported | None = None) -> Exported:
    """Source configs one after the other in a fresh, strict bash; return what is exported then. They must print nothing."""
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    script = f'set -euo pipefail; for path; do source "$path"; done; exec "{sys.executable}" -c "{show}"'
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", script, "bash", *map(str, paths)],
        env={**BARE, **(environ or {})}, cwd=cwd, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.count("\n") == 1, f"sourcing prints: {done.stdout}"
    exported: Exported = json.loads(done.stdout)
    return {name: value for name, value in exported.items() if name not in {*BARE, "PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}}
