"""The grammars of qsub's values, as OpenPBS checks them before it submits (its ecl_verify_values.c, parse_depend.c and cvtdate.c)."""

from __future__ import annotations

import re

from stormbench.core.errors import did_you_mean
from stormbench.job.directives_base import Given

_GRAMMAR = {
    "j": r"oe|eo|n", "r": r"[yn]", "k": r"n+d?|d?n+|(?=.*[oe])[oed]+", "m": r"n|[abej]{1,4}", "c": r"[ncsw]|[cw]=\d+", "R": r"[oe]+",
    "J": r"\d{1,9}-\d{1,9}(:\d{1,9})?(%\d{1,9})?", "q": r"[^\s]+", "A": r".+", "M": r".+", "S": r".+", "o": r".+", "e": r".+",
    "v": r"[^\s=,][^\n]*", "N": r"(?!-)[A-Za-z0-9_+.-]{1,230}",
    "a": r"((((\d\d)?\d\d)?(0[1-9]|1[0-2]))?(0[1-9]|[12]\d|3[01]))?([01]\d|2[0-3])[0-5]\d(\.[0-5]\d)?",
}  # fmt: skip
_HINTS = {
    "N": "; a name has at most 230 characters without blanks: letters, digits, and _ + . -",
    "p": "; write a number from -1024 to 1023",
    "a": "; write [[[[CC]YY]MM]DD]hhmm[.SS]",
}
_JOB = r"\d+(\[\])?(\.[\w.-]+)?(@[\w.-]+)?"
_DEPEND = re.compile(
    rf"(on|synccount):\d+|(after|afterok|afternotok|afterany|before|beforeok|beforenotok|beforeany|syncwith|runone)(:{_JOB})+", re.ASCII
)
_SUBJOB = re.compile(r":\d+\[[^\]]+\]")
_ANY = r".+"
_TRUTH = r"(?i:true|false)"
_ATTRIBUTES = {
    "block": _TRUTH, "interactive": _TRUTH, "depend": _ANY, "create_resv_from_job": r"(?i:true|false|t|f|y|n|0|1)", "group_list": _ANY,
    "pwd": r".*", "release_nodes_on_stageout": r"(?i:true|false|t|f|y|n|0|1)", "run_count": r"\d+", "max_run_subjobs": r"\d+",
    "sandbox": r"(?i:HOME|O_WORKDIR|PRIVATE)", "stagein": _ANY, "stageout": _ANY, "tolerate_node_failures": r"all|job_start|none",
    "umask": r"[0-7]{1,4}", "cred": _ANY, "alt_id": _ANY, "project": _ANY, "comment": _ANY,
}  # fmt: skip
_PLACE = re.compile(r"(free|pack|scatter|vscatter)(:(excl|exclhost|shared))?(:group=\w+)?|(excl|exclhost|shared)(:group=\w+)?|group=\w+")
_SIZE = re.compile(r"\d+[kmgtp]?[bw]?", re.ASCII | re.IGNORECASE)
SIZES = ("mem", "vmem", "pmem", "pvmem", "file", "jobfs")


def check(each: Given) -> None:
    """Check the value of one option but -l.

    Raises:
        UserError: it doesn't fit.
    """
    pattern, value = _GRAMMAR.get(each.name), each.value
    fits: bool = pattern is None or bool(re.fullmatch(pattern, value, re.ASCII))
    if each.name == "p":
        fits = bool(re.fullmatch(r"[+-]?\d{1,5}", value, re.ASCII)) and -1024 <= int(value) <= 1023
    if not fits:
        raise each.wrong(f"-{each.name} {value}: illegal -{each.name} value{_HINTS.get(each.name, '')}")
    if each.name == "W":
        _check_attribute(each)


def _check_attribute(each: Given) -> None:
    name, sign, value = each.value.partition("=")
    if name not in _ATTRIBUTES or not sign:
        raise each.wrong(f"-W {each.value}: illegal -W value{did_you_mean(name, _ATTRIBUTES)}")
    if name == "depend":
        if _SUBJOB.search(value):
            raise each.wrong(f"-W {each.value}: cannot have dependency on subjob or range; name the whole array, as in afterany:123[]")
        if not all(_DEPEND.fullmatch(part.strip()) for part in value.split(",")):
            raise each.wrong(f"-W {each.value}: illegal -W value; write depend=afterok:JOB")
    elif not re.fullmatch(_ATTRIBUTES[name], value, re.ASCII):
        raise each.wrong(f"-W {each.value}: illegal -W value")


def check_place(each: Given, value: str) -> None:
    """Check `place`, whose parts stand in this order: arrangement, sharing, grouping.

    Raises:
        UserError: it doesn't fit.
    """
    if not _PLACE.fullmatch(value):
        raise each.wrong(f"-l {each.value}: Illegal place; use free, pack, scatter or vscatter, with :excl, :exclhost or :shared")


def check_size(each: Given, name: str, value: str) -> None:
    """Check an amount of memory such as 16gb, where the resource `name` is one.

    Raises:
        UserError: it doesn't fit.
    """
    if name in SIZES and not _SIZE.fullmatch(value):
        raise each.wrong(f"-l {each.value}: Illegal attribute or resource value; write {name}=NUMBER with kb, mb, gb or tb")


def wall_time(each: Given) -> int:
    """Return seconds for `SECONDS`, `MM:SS` or `HH:MM:SS`, each perhaps with thousandths; as in PBS, no part has a largest value.

    Raises:
        UserError: it can't be read, or is zero.
    """
    match = re.fullmatch(r"(\d{1,9}(?::\d{1,9}){0,2})(?:\.(\d+))?", each.value.partition("=")[2], re.ASCII)
    seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(match[1].split(":")))) if match else 0
    if match and int((match[2] or "").ljust(3, "0")[:3]) >= 500:
        seconds += 1
    if not seconds:
        raise each.wrong(f"-l {each.value}: Illegal attribute or resource value; write HH:MM:SS, MM:SS or seconds")
    return seconds
