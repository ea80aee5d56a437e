"""The JSON schema of options under their environment variables' names: what a shell config may export, as text or typed.

A shell exports text only, so each property takes the text form, by a pattern, beside the value that the text stands for. A pattern
can't know every limit: the schema serves editors and programs that write configs, and `stormbench check` has the last word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stormbench.core.options import Option, options_of, plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BLANK = r"[ \t\n\r]*"
_FLOAT = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_SWITCHES = ("1", "0", "true", "false", "yes", "no", "on", "off")
_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}


def json_schema(config: type, title: str) -> dict[str, Any]:
    """Return a JSON schema of the config's options; every property is optional, and an empty text counts as unset."""
    properties = {spec.variable: of_option(spec) for spec in options_of(config)}
    return {"$schema": DIALECT, "title": title, "type": "object", "properties": properties}


def of_option(spec: Option) -> dict[str, Any]:
    """Return one option's property: what its value may be, its help and its default."""
    forms = [form for form in (_typed(spec), _text(spec)) if form is not None]
    default = {} if spec.default is None else {"default": plain(spec.default)}
    return {**(forms[0] if len(forms) == 1 else {"anyOf": forms}), "description": spec.help, **default}


def _typed(spec: Option) -> dict[str, Any] | None:
    """Return the schema of the value itself; None where that is text too."""
    item: dict[str, Any] = {"type": _TYPES.get(spec.kind, "string")}
    limits = {"minimum": spec.minimum, "exclusiveMinimum": spec.above, "maximum": spec.maximum, "exclusiveMaximum": spec.below}
    item |= {name: limit for name, limit in limits.items() if limit is not None}
    if spec.many:
        if spec.kind is str and spec.pattern:
            item["pattern"] = f"^({spec.pattern})$"
        return {"type": "array", "items": item, **({"minItems": spec.count, "maxItems": spec.count} if spec.count else {})}
    if spec.convert and spec.kind is int:
        # a wall time in minutes, which is no text in YAML or JSON
        return {"type": "integer", "minimum": 1}
    return None if item["type"] == "string" else item


def _text(spec: Option) -> dict[str, Any]:
    """Return the schema of the text that a shell exports."""
    if spec.choices and not spec.many:
        return {"enum": [*spec.choices, ""]}
    one = spec.pattern or _number(spec)
    if one is None:
        return {"type": "string"}
    if spec.many:
        # only numbers have other separators and brackets
        blanks, opening, closing = (r"[ \t\n\r]+", "", "") if spec.kind is str else (r"[ \t\n\r,:]+", r"[\[(]?", r"[\])]?")
        repeated = f"{{{spec.count - 1}}}" if spec.count else "*"
        one = f"{opening}{_BLANK}({one})({blanks}({one})){repeated}{_BLANK}{closing}"
    # a blank whole number is no number to a shell that computes with it
    unset = "" if spec.kind is int else _BLANK
    return {"type": "string", "pattern": f"^({unset}|{_BLANK}({one}){_BLANK})$"}


def _number(spec: Option) -> str | None:
    """Return the pattern of one number or switch; None for text, which may be anything."""
    if spec.kind is bool:
        return "|".join("".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in word) for word in _SWITCHES)
    if spec.kind is int:
        digits = f"{{1,{len(str(int(spec.maximum)))}}}" if spec.maximum is not None else "+"
        sign = r"\+?" if spec.minimum is not None and spec.minimum >= 0 else "[+-]?"
        return rf"{sign}{'(?=0*[1-9])' if spec.minimum == 1 else ''}0*[0-9]{digits}"
    if spec.kind is float:
        positive = spec.above == 0
        sign = r"\+?" if positive or (spec.minimum is not None and spec.minimum >= 0) else "[+-]?"
        return rf"{sign}{'(?=[0-9.]*[1-9])' if positive else ''}{_FLOAT}"
    return None
