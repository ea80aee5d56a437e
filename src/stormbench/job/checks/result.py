"""What one check of a machine says: a verdict, what was found with its value, and the remedy in one sentence."""

from __future__ import annotations

import dataclasses

OK, WARNING, PROBLEM, NOT_APPLICABLE = "ok", "warning", "problem", "not applicable"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One finding of the doctor; `group` and `check` are filled in by whoever runs the check."""

    verdict: str
    found: str
    remedy: str = ""
    group: str = ""
    check: str = ""
    host: str = ""

    def row(self) -> dict[str, str]:
        """Return the finding under the names that `--json` prints."""
        return {name: getattr(self, name) for name in FIELDS}

    @staticmethod
    def from_row(row: dict[str, str]) -> Result:
        """Return the finding of another machine's doctor."""
        return Result(**{name: str(row.get(name, "")) for name in FIELDS})


FIELDS = ("host", "group", "check", "verdict", "found", "remedy")


def ok(found: str) -> Result:
    """Return that all is well."""
    return Result(verdict=OK, found=found)


def warning(found: str, remedy: str) -> Result:
    """Return what the user should know, though a job can run."""
    return Result(verdict=WARNING, found=found, remedy=remedy)


def problem(found: str, remedy: str) -> Result:
    """Return what makes a job fail, or its result wrong."""
    return Result(verdict=PROBLEM, found=found, remedy=remedy)


def not_applicable(found: str) -> Result:
    """Return why there is nothing to check here."""
    return Result(verdict=NOT_APPLICABLE, found=found)
