"""`stormbench images lock`: the digests of the base images, in docker/images.lock, so that a tag that moves changes no build unseen."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stormbench.core.errors import EXIT_DONE, EXIT_FAILED, RunError, UserError
from stormbench.core.files import write_text
from stormbench.core.tables import show
from stormbench.job.images import recipe, run

LOCK = Path("docker") / "images.lock"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LIMIT_S = 60.0
LOCKED, MISSING, UNRESOLVED, UNUSED, DROPPED = "locked", "missing", "not resolved", "not in use", "dropped"
WRONG = (MISSING, UNRESOLVED, UNUSED)
HEADER = """\
# The digests of the base images in images.toml, and of those with a compiler. Renewed by: stormbench images lock
# One that could not be asked for is empty: then a build takes the base by its tag alone, and says so.
"""
DETAIL = """\
Asks each registry for the digest of each base image and renews docker/images.lock: over HTTPS, anonymously or with what docker login has
kept, else through skopeo where that is installed. A digest that can't be had is left as it was, or empty. --check asks nobody: it compares
the lock with images.toml. Exit code 1 where a digest is missing."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.description = DETAIL
    parser.add_argument("--check", action="store_true", help="ask no registry, only compare the lock with images.toml")
    parser.add_argument("--dry_run", action="store_true", help="print what would be asked")
    parser.add_argument("--kit", metavar="DIR", help="the kit's checkout, by default the one of this program")
    parser.add_argument("--json", action="store_true", help="as a JSON list")
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Renew or check the lock and tell how each base stands; 1 where one has no digest."""
    kit = recipe.kit_folder(arguments.kit)
    bases = list(dict.fromkeys(base for image in recipe.read_images(kit) for base in image.foreign_images))
    if arguments.dry_run:
        from stormbench.job.images import registry

        for base in bases:
            print(f"GET {registry.manifest_url(base)}")
        return EXIT_DONE
    held = read_lock(kit)
    rows = [_held(base, held) for base in bases] if arguments.check else [_renewed(base, held) for base in bases]
    left = [base for base in held if base not in bases]
    rows += [_row(base, held[base], UNUSED if arguments.check else DROPPED, "no image has this base any more") for base in left]
    if not arguments.check:
        write_lock(kit, {row["base"]: row["digest"] for row in rows if row["base"] in bases})
    show(rows, as_json=arguments.json)
    return EXIT_FAILED if any(row["state"] in WRONG for row in rows) else EXIT_DONE


def read_lock(kit: Path) -> dict[str, str]:
    """Return the digest of each base, empty where it isn't known; no file is no digest.

    Raises:
        UserError: the file is damaged.
    """
    path = kit / LOCK
    if not path.exists():
        return {}
    table = recipe.read_toml(path).get("digests", {})
    for base, digest in table.items() if isinstance(table, dict) else [("[digests]", table)]:
        if not isinstance(digest, str) or (digest and not DIGEST.fullmatch(digest)):
            raise UserError(
                f"{path}: {base} = {digest!r}: must be sha256: and 64 hexadecimal digits, or empty; run: stormbench images lock"
            )
    return dict(table)


def write_lock(kit: Path, digests: dict[str, str]) -> None:
    """Write the lock, bases in their order in images.toml."""
    write_text(kit / LOCK, HEADER + "\n[digests]\n" + "".join(f'"{base}" = "{digest}"\n' for base, digest in digests.items()))


def _row(base: str, digest: str, state: str, told: str = "") -> dict[str, Any]:
    return {"base": base, "digest": digest, "state": state, "told": told}


def _held(base: str, held: dict[str, str]) -> dict[str, Any]:
    if base not in held:
        return _row(base, "", MISSING, "not in the lock; renew it: stormbench images lock")
    if not held[base]:
        return _row(base, "", MISSING, "no digest yet; renew the lock where the registry can be reached")
    return _row(base, held[base], LOCKED)


def _renewed(base: str, held: dict[str, str]) -> dict[str, Any]:
    # HTTP and TLS are slow to import, and only asking needs them
    from stormbench.job.images import registry

    before = held.get(base, "")
    ways: Iterable[Callable[[str], str]] = (registry.digest, *([_skopeo] if shutil.which("skopeo") else []))
    reasons = []
    for way in ways:
        try:
            digest = way(base)
        except RunError as error:
            reasons.append(str(error))
            continue
        if digest == before:
            return _row(base, digest, LOCKED)
        return _row(base, digest, "renewed", f"was {before}") if before else _row(base, digest, "new")
    return _row(base, before, UNRESOLVED, ("the old one is kept: " if before else "") + "; ".join(reasons))


def _skopeo(base: str) -> str:
    """Return the digest of the manifest that skopeo fetches: its own bytes' hash, so that nothing of its printing is believed."""
    import hashlib
    import subprocess

    words = ["skopeo", "inspect", "--raw", f"docker://{base}"]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"skopeo: {type(error).__name__}") from error
    if done.returncode != 0 or not done.stdout.lstrip().startswith(b"{"):
        said = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        # its log lines are time="..." level=fatal msg="..."
        last = said[-1] if said else f"exit code {done.returncode}"
        raise RunError(f"skopeo: {last.partition('msg=')[2].strip(chr(34)) or last}")
    return "sha256:" + hashlib.sha256(done.stdout).hexdigest()


def base_with_digest(kit: Path, base: str) -> tuple[str, str]:
    """Return the base as a build should name it, and its digest; by tag alone, and told so, where the lock has none."""
    digest = read_lock(kit).get(base, "")
    if not digest:
        run.note(f"{base} has no digest in {LOCK}, so it is taken by its tag; where its registry can be reached: stormbench images lock")
    return (f"{base}@{digest}" if digest else base), digest
