"""`stormbench variables`: every option of jobs and workloads with its variable, from the declarations themselves."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from stormbench.core.arguments import default_text
from stormbench.core.options import options_of
from stormbench.core.schema import json_schema, of_option
from stormbench.core.tables import markdown_table, text_table
from stormbench.core.workloads import WORKLOADS
from stormbench.job.config import JobConfig
from stormbench.job.known import PREFIXES, WITHOUT_EFFECT
from stormbench.job.values import NAME

HEADERS = ("variable", "of", "flag", "default", "unit", "bounds", "meaning")
TITLE = "Variables of stormbench's shell configs"
GRAMMARS = {
    "RUN_TAG": NAME,
    "LR_MILESTONES": "[1-9][0-9]*",
    "LR_SCHEDULE": r"(?=.*\btype\s*=\s*[\"']?(multistep|cosine_annealing)\b)PIECE(,PIECE)*".replace(
        "PIECE", r"\s*(type|milestones|decay_rate|t_max|eta_min)\s*=\s*(\"[^\"]*\"|'[^']*'|[^,\"']*)\s*"
    ),
}
"""What the workloads' values with a grammar of their own look like in the schema."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON list")
    form.add_argument("--markdown", action="store_true", help="as the table in the README")
    form.add_argument("--schema", action="store_true", help="as a JSON schema")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the options in the form asked for."""
    rows = table_rows()
    if arguments.schema:
        print(json.dumps(schema(), indent=2))
    elif arguments.json:
        print(json.dumps([dict(zip(HEADERS, row, strict=True)) for row in rows], indent=2))
    elif arguments.markdown:
        print(markdown_rows(rows))
    else:
        print(text_table(HEADERS, rows))
    return 0


def markdown_rows(rows: list[list[str]]) -> str:
    """Return the table as the README has it, names and flags in code type."""
    return markdown_table(HEADERS, [[f"`{row[0]}`", row[1], f"`{row[2]}`" if row[2] else "", *row[3:]] for row in rows])


def table_rows() -> list[list[str]]:
    """Return one row for each option: variable, whose it is, flag, default, unit, bounds, meaning."""
    return [
        [
            spec.variable,
            of,
            spec.flag if of != "job" else "",
            default_text(spec),
            spec.unit or "",
            "" if spec.kind is bool else spec.bounds,
            spec.help,
        ]
        for of, declared in _declarations()
        for spec in options_of(declared)
    ]


def schema() -> dict[str, Any]:
    """Return one JSON schema for what a shell config may export; a name that several parts share keeps the first one's bounds."""
    merged: dict[str, Any] = {name: {"description": f"Without effect here: {why}."} for name, why in WITHOUT_EFFECT.items()}
    for _, declared in reversed(_declarations()):
        merged |= {spec.variable: of_option(dataclasses.replace(spec, pattern=GRAMMARS.get(spec.variable, spec.pattern)))
                   for spec in options_of(declared)}  # fmt: skip
    # a documented name has its own property, whatever it begins with
    documented = "|".join(name for name in merged if name.startswith(PREFIXES))
    libraries = f"^(?!({documented})$)({'|'.join(PREFIXES)})"
    names = {"propertyNames": {"anyOf": [{"enum": sorted(merged)}, {"pattern": f"^({'|'.join(PREFIXES)})"}]}}
    # what STORMBENCH_EXPORT lists is known to the config alone
    lists = {"required": ["STORMBENCH_EXPORT"], "properties": {"STORMBENCH_EXPORT": {"anyOf": [
        {"type": "string", "pattern": "[A-Za-z_]"}, {"type": "array", "minItems": 1}]}}}  # fmt: skip
    return {
        **json_schema(JobConfig, TITLE), "properties": dict(sorted(merged.items())),
        "patternProperties": {libraries: {"type": "string", "description": "Variables of libraries and of sbatch."}},
        "if": lists, "else": names,
    }  # fmt: skip


def _declarations() -> list[tuple[str, type]]:
    return [("job", JobConfig), *((workload.name, workload.options()) for workload in WORKLOADS.values())]
