"""LSF's directives: the options of bsub with their grammars, and the nodes, ranks, cores and GPUs they add up to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stormbench.job.directives_base import Given, Request, agreed, grouped, number, read, refuse_repeats
from stormbench.job.standins.options import table

BSUB = table(
    """
    B H I Ip Is K N Ne V h,help r rn x ptl= ul
    a= alloc_flags= app= ar b= C= c= clusters= cn_cu= cn_mem= core_isolation= csm= cu= cwd= D= data= datachk datagrp= E= Ep= e= env= eo=
    eptl= ext=
    F= f= freq= G= g= gpu= hl hostfile= i= is= J= Jd= jobaff= jsm= k= L= Lp= M= m= mig= n= network= nnodes= notify= O= o= oo= outdir= P=
    p= pack= Q= q=
    R= rcacct= rnc= S= s= smt= sla= sp= ss stage= step_cgroup= T= t= ti ts= U= u= v= W= We= w= wa= wt= XF XFs Zs
    """,
    "single",
)
REPEATABLE = ("R", "a", "f", "data")
_MINUTES = re.compile(r"(?:(\d{1,6}):(\d\d)|(\d{1,7}))", re.ASCII)
_ARRAY = re.compile(r"\[([^\]]*)\](?:%(\d+))?$")
_YES_NO = {"csm": ("y", "n"), "ul": ("",), "core_isolation": ("0", "1", "2", "3", "4", "5", "6", "y", "n"), "jsm": ("y", "n", "d")}


def read_script(text: str, origin: str) -> list[Given]:
    """Return the options of all `#BSUB` lines.

    Raises:
        UserError: one that bsub doesn't know, or one twice with different values.
    """
    given = read(text, "#BSUB", BSUB, origin)
    refuse_repeats(given, REPEATABLE, "-")
    return given


def interpret(given: Iterable[Given]) -> Request:
    """Return what the options ask for.

    Raises:
        UserError: a value doesn't fit its option, or options contradict each other.
    """
    given = list(given)
    by_name = {each.name: each for each in given}
    for each in given:
        if each.name in _YES_NO and each.value not in _YES_NO[each.name]:
            raise each.wrong(f"-{each.name} {each.value}: must be one of {', '.join(_YES_NO[each.name])}")
        if each.name in ("P", "q", "J", "o", "e", "Jd", "alloc_flags", "cwd", "w") and not each.value.strip():
            raise each.wrong(f"-{each.name}: empty; give it a value or remove it")
    nodes, ranks = _places(by_name, [each for each in given if each.name == "R"])
    _check_warning(by_name)
    asked = {"nodes": nodes or 1, "ranks_per_node": ranks, "cores_per_rank": None, "gpus_per_node": _gpus(by_name.get("gpu"))}
    layout = agreed(by_name.get("Jd"), asked)
    name, array = _name(by_name["J"]) if "J" in by_name else (None, ())
    return Request(
        nodes=nodes or 1, ranks_per_node=layout["ranks_per_node"], cores_per_rank=layout["cores_per_rank"],
        gpus_per_node=layout["gpus_per_node"] or 0,
        wall_s=minutes(by_name["W"]) * 60 if "W" in by_name else None, name=name, queue=by_name["q"].value if "q" in by_name else None,
        array=array,
        options=grouped(given),
    )  # fmt: skip


def minutes(each: Given) -> int:
    """Return the minutes of `[H:]MM`; bsub's -W also takes `/HOST` after it.

    Raises:
        UserError: it can't be read, is zero, or has 60 minutes or more after hours.
    """
    text = each.value.partition("/")[0] if each.name == "W" else each.value
    match = _MINUTES.fullmatch(text)
    total = (int(match[1]) * 60 + int(match[2]) if match[1] else int(match[3])) if match else 0
    if match is None or total == 0 or (match[1] and int(match[2]) > 59):
        raise each.wrong(f"-{each.name} {each.value}: Bad time specification; write MINUTES or HOURS:MM, with minutes below 60")
    return total


def _places(by_name: dict[str, Given], resources: list[Given]) -> tuple[int | None, int | None]:
    """Return nodes and, where -R says span[ptile=N], slots per node."""
    if "n" in by_name and "nnodes" in by_name:
        first, second = by_name["nnodes"], by_name["n"]
        raise second.wrong(
            f"-n {second.value} can't stand with -nnodes {first.value} ({first.where}); keep -nnodes where jobs take whole nodes"
        )
    if "nnodes" in by_name:
        return number(by_name["nnodes"], by_name["nnodes"].value, "-nnodes "), None
    for each in resources:
        if each.value.count("[") != each.value.count("]"):
            raise each.wrong(f"-R {each.value}: Bad resource requirement syntax; close its brackets")
    tiles = [(each, match[1]) for each in resources if (match := re.search(r"span\[.*?ptile=(\d+)", each.value))]
    one_host = any(re.search(r"span\[.*?hosts=1\b", each.value) for each in resources)
    if "n" not in by_name:
        return None, None
    low, _, high = by_name["n"].value.partition(",")
    slots = number(by_name["n"], high or low, "-n ")
    if number(by_name["n"], low, "-n ") > slots:
        raise by_name["n"].wrong(f"-n {by_name['n'].value}: the smaller number comes first")
    if tiles:
        tile = number(tiles[0][0], tiles[0][1], "ptile")
        return -(-slots // tile), min(tile, slots)
    return 1, slots if one_host else None


def _check_warning(by_name: dict[str, Given]) -> None:
    """Raise unless -wa (what to do before the limit) and -wt (how long before) come together and make sense."""
    for one, other in (("wa", "wt"), ("wt", "wa")):
        if one in by_name and other not in by_name:
            raise by_name[one].wrong(f"-{one} {by_name[one].value} needs -{other} as well; add it or remove -{one}")
    if "wa" in by_name:
        if not by_name["wa"].value.strip():
            raise by_name["wa"].wrong("-wa: empty; name a signal such as USR1, a command, or CHKPNT")
        before = minutes(by_name["wt"])
        if "W" in by_name and before >= minutes(by_name["W"]):
            raise by_name["wt"].wrong(f"-wt {by_name['wt'].value} must be below the limit -W {by_name['W'].value}")


def _gpus(each: Given | None) -> int | None:
    if each is None:
        return None
    match = re.match(r"(?:.*:)?num=(\d+)(?:/(?:host|task))?(?=:|$)", each.value)
    if each.value != "-" and match is None:
        raise each.wrong(f"-gpu {each.value}: Bad GPU requirement; write num=NUMBER[:mode=...]")
    return int(match[1]) if match else 1


def _name(each: Given) -> tuple[str, tuple[int, ...]]:
    """Return the name and the indices of `name` or `name[1-4:2,7]%2`."""
    match = _ARRAY.search(each.value)
    name = each.value[: match.start()] if match else each.value
    if not name or len(each.value) > 4094 or "[" in name or "]" in name:
        raise each.wrong(f"-J {each.value}: Bad job name or array; write NAME or NAME[1-4]")
    found: list[int] = []
    for part in match[1].split(",") if match else []:
        bounds = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?", part.strip(), re.ASCII)
        low, high, step = (int(bounds[1]), int(bounds[2] or bounds[1]), int(bounds[3] or 1)) if bounds else (0, 0, 0)
        if not 1 <= low <= high or step < 1 or high - low >= 100000:
            raise each.wrong(f"-J {each.value}: Bad array index list; write NAME[1-4] with indices of at least 1")
        found += range(low, high + 1, step)
    return name, tuple(dict.fromkeys(found))
