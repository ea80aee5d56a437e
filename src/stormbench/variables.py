"""`stormbench variables`: every option of every workload with its variable, from the declarations themselves."""

from __future__ import annotations

import argparse
import json

from stormbench.core.arguments import default_text
from stormbench.core.options import json_schema, options_of
from stormbench.core.tables import markdown_table, text_table
from stormbench.deepcam.config import TrainConfig

HEADERS = ("variable", "flag", "default", "unit", "bounds", "meaning")


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
        print(json.dumps(json_schema(TrainConfig, "DeepCAM training"), indent=2))
    elif arguments.json:
        print(json.dumps([dict(zip(HEADERS, row, strict=True)) for row in rows], indent=2))
    elif arguments.markdown:
        print(markdown_table(HEADERS, [[f"`{row[0]}`", f"`{row[1]}`", *row[2:]] for row in rows]))
    else:
        print(text_table(HEADERS, rows))
    return 0


def table_rows() -> list[list[str]]:
    """Return one row for each option: variable, flag, default, unit, bounds, meaning."""
    return [
        [spec.variable, spec.flag, default_text(spec), spec.unit or "", "" if spec.kind is bool else spec.bounds, spec.help]
        for spec in options_of(TrainConfig)
    ]
