"""The rules between a config's values: what each value alone can't show, such as a file name that contradicts its content.

Each module holds the rules of one matter; a rule is a function from a job to its findings and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from stormbench.job.findings import Finding
from stormbench.job.rules import launching, limits, names, nersc10, paths, placing, sbatch, science, tags

if TYPE_CHECKING:
    from stormbench.job.load import Job

RULES: tuple[Callable[[Job], Iterator[Finding]], ...] = (
    *names.RULES,
    *tags.RULES,
    *placing.RULES,
    *sbatch.RULES,
    *launching.RULES,
    *limits.RULES,
    *science.RULES,
    *nersc10.RULES,
    *paths.RULES,
)


def apply(job: Job) -> list[Finding]:
    """Return what every rule finds.

    Rules that need the layout or the workload's values are silent where these are missing, and nothing is said of a variable whose
    own value is wrong: the default would stand in for it, and comparing that with anything misleads.
    """
    found = [finding for rule in RULES for finding in rule(job)]
    if not job.wrong:
        return found
    wrong = re.compile(rf"\b({'|'.join(map(re.escape, sorted(job.wrong)))})\b")
    return [finding for finding in found if not wrong.search(finding.text)]
