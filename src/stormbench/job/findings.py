"""What a check finds: errors and warnings, each one sentence that begins with the place in the file it is about."""

from __future__ import annotations

import dataclasses

ERROR, WARNING = "error", "warning"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One sentence about a config: `where` is `file:line`, `the environment` or `file`; `text` has value, limit and fix."""

    level: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.level == ERROR else f"{self.where}: warning: {self.text}"


def counted(number: int, thing: str) -> str:
    """Return `1 rank` or `2 ranks`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def error(where: str, text: str) -> Finding:
    """Return what keeps the job from being submitted."""
    return Finding(level=ERROR, where=where, text=text)


def warning(where: str, text: str) -> Finding:
    """Return what the user should know, though the job can run."""
    return Finding(level=WARNING, where=where, text=text)
