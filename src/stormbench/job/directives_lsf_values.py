"""The grammars of bsub's values and the options that exclude each other, by the pages of IBM Spectrum LSF 10.1's command reference."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stormbench.core.errors import did_you_mean
from stormbench.job.directives_base import Given

_TIME = r"(\d{1,6}:)?\d{1,7}"
_SIZE = r"\d+\s*((?i:[kmgtpez]b?))?"
_WHEN = r"((\d{1,4}:)?\d{1,2}:){0,2}([01]?\d|2[0-3]):[0-5]?\d"
_GRAMMAR = {
    "csm": r"[yn]", "core_isolation": r"[0-6yn]", "jsm": r"[ynd]", "step_cgroup": r"[yn]",
    "M": _SIZE + r"\s*!?", "S": _SIZE, "D": _SIZE, "C": _SIZE, "F": _SIZE, "v": _SIZE, "cn_mem": _SIZE, "ln_mem": _SIZE,
    "We": rf"{_TIME}(/.+)?", "c": rf"{_TIME}(/.+)?", "ptl": _TIME, "eptl": _TIME, "b": _WHEN, "t": _WHEN,
    "sp": r"\d{1,10}", "mig": r"\d{1,7}", "p": r"\d{1,9}", "T": r"\d{1,9}", "smt": r"[1-9]\d*", "ln_slots": r"[1-9]\d*",
    "alloc_flags": r"\w+( +\w+)*",
    "env": r"none|all(,.*)?|[A-Za-z_]\w*(=.*)?",
}  # fmt: skip
_NOT_EMPTY = ("P", "q", "J", "o", "oo", "e", "eo", "Jd", "cwd", "app", "L", "R", "hostfile", "json", "yaml", "jsdl", "jsdl_strict")
_INTERACTIVE = ("I", "Ip", "Is", "IS", "ISp", "ISs", "IX")
_EXCLUDE = (
    ("o", ("oo",)), ("e", ("eo",)), ("r", ("rn",)), ("K", _INTERACTIVE), ("hostfile", ("ext", "n", "m", "R")),
    ("json", ("yaml", "jsdl", "jsdl_strict")), ("yaml", ("jsdl", "jsdl_strict")),
)  # fmt: skip
_EASY = ("nnodes", "ln_slots", "ln_mem", "cn_cu")
"""What belongs to CSM's easy mode, and `-cn_mem` alone to its expert mode."""
_GPU = {
    "num": r"[1-9]\d*(/(task|host))?", "mode": r"shared|exclusive_process",
    "mps": r"no|(yes|per_socket|per_gpu)(,(share|shared|nocvd)){0,2}",
    "j_exclusive": r"yes|no", "aff": r"yes|no", "block": r"yes|no", "gpack": r"yes|no", "glink": r"yes|no", "nvlink": r"yes|no",
    "gvendor": r"amd|nvidia", "gmodel": r".+", "gtile": r"\d+|!", "gmem": _SIZE, "mig": r"\d+(/\d+)?",
}  # fmt: skip
_SECTIONS = ("select", "order", "rusage", "span", "same", "cu", "affinity")
_SPAN = re.compile(r"hosts=(1|-1)|(ptile|block)='?(\d+|!)'?(,\w+:\d+)*|ptile=\w+:\d+(,\w+:\d+)*|stripe(=\d+)?|gtile=(\d+|!)", re.ASCII)
_CONDITION = re.compile(
    r"\b(done|ended|exit|external|started|post_done|post_err|num(done|ended|exit|hold|pend|run|start))"
    r"\(\s*(\"[^\"()]+\"|[\w.*\[\]/-]+)(\s*,[^()]*)?\s*\)"
)


def check(by_name: Mapping[str, Given], given: list[Given]) -> None:
    """Check the values of all options but those that make up the layout, and their company.

    Raises:
        UserError: one doesn't fit, or two exclude each other.
    """
    for each in given:
        pattern = _GRAMMAR.get(each.name)
        if not each.value.strip() and (pattern or each.name in _NOT_EMPTY or each.name == "w"):
            raise each.wrong(f"-{each.name}: empty; give it a value or remove it")
        if pattern and not re.fullmatch(pattern, each.value.strip(), re.ASCII):
            raise each.wrong(f"-{each.name} {each.value}: Bad argument for option -{each.name}")
        if each.name == "w":
            _check_dependency(each)
        if each.name == "R":
            _check_requirement(each)
    for name, others in _EXCLUDE:
        for other in others:
            _refuse_both(by_name, name, other)
    expert = "csm" in by_name and by_name["csm"].value == "y"
    for name in _EASY if expert else ():
        _refuse_both(by_name, "csm", name)
    if "cn_mem" in by_name and not expert:
        raise by_name["cn_mem"].wrong(f"-cn_mem {by_name['cn_mem'].value}: only with -csm y; remove it")
    # compound and alternative requirements have one span for each of their parts
    simple = [each for each in given if each.name == "R" and not re.search(r"[{}]|\|\|", each.value)]
    spans = [each for each in simple for _ in re.findall(r"\bspan\[", each.value)]
    if len(spans) > 1:
        raise spans[-1].wrong(f"-R {spans[-1].value}: Bad resource requirement syntax: a second span section; write one")


def _refuse_both(by_name: Mapping[str, Given], one: str, other: str) -> None:
    if one in by_name and other in by_name:
        first = by_name[one]
        shown = f"-{one} {first.value}".rstrip()
        second = f"-{other} {by_name[other].value}".rstrip()
        raise by_name[other].wrong(f"{second} can't stand with {shown} ({first.where}); keep one of them")


def _check_dependency(each: Given) -> None:
    """Reduce the expression to one condition by LSF's operators."""
    text = _CONDITION.sub("T", each.value)
    text = re.sub(r"\"[^\"()]+\"|(?<![\w.*/-])(?!T(?![\w.*/-]))[\w.*\[\]/-]+", "T", text)
    before = None
    while text != before:
        before = text
        text = re.sub(r"!\s*T|\(\s*T\s*\)|T\s*(&&|\|\|)\s*T", "T", text).strip()
    if text != "T":
        raise each.wrong(f"-w {each.value}: Bad dependency condition; write done(JOB), ended(JOB) or exit(JOB), joined by && or ||")


def _check_requirement(each: Given) -> None:
    if each.value.count("[") != each.value.count("]") or each.value.count("(") != each.value.count(")"):
        raise each.wrong(f"-R {each.value}: Bad resource requirement syntax; close its brackets")
    for name in re.findall(r"([A-Za-z_]\w*)\[", each.value):
        if name not in _SECTIONS:
            raise each.wrong(f"-R {each.value}: Bad resource requirement syntax: no section {name}[]{did_you_mean(name, _SECTIONS)}")
    for span in re.findall(r"\bspan\[([^\]]*)\]", each.value):
        if not _SPAN.fullmatch(span.strip()):
            raise each.wrong(f"-R {each.value}: Bad resource requirement syntax in span[{span}]; write hosts=1 or ptile=NUMBER")


def gpus(each: Given | None) -> int | None:
    """Return the GPUs of a host that -gpu asks for.

    Raises:
        UserError: it can't be read.
    """
    if each is None:
        return None
    found = 1
    for item in each.value.split(":") if each.value != "-" else ():
        name, _, value = item.partition("=")
        if name not in _GPU or not re.fullmatch(_GPU[name], value.strip("'"), re.ASCII):
            raise each.wrong(f"-gpu {each.value}: Bad GPU requirement {item!r}; write num=NUMBER[:mode=shared|exclusive_process]")
        if name == "num":
            found = int(value.partition("/")[0])
    return found
