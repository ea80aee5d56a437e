"""LSF's directives: the options of bsub with their grammars, and the nodes, ranks, cores and GPUs they add up to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stormbench.job.directives_base import Given, Request, agreed, directive_words, grouped, number, read, refuse_repeats
from stormbench.job.directives_lsf_values import check, gpus
from stormbench.job.standins.options import table

BSUB = table(
    """
    B H I Ip Is K N Ne V h,help r rn x ptl= ul
    a= alloc_flags= app= ar b= C= c= clusters= cn_cu= cn_mem= core_isolation= csm= cu= cwd= D= data= datachk datagrp= E= Ep= e= env= eo=
    eptl= ext=
    F= f= freq= G= g= gpu= hl hostfile= i= is= J= Jd= jobaff= jsm= k= L= Lp= M= m= mig= n= network= nnodes= notify= O= o= oo= outdir= P=
    p= pack= Q= q=
    R= rcacct= rnc= S= s= smt= sla= sp= ss stage= step_cgroup= T= t= ti ts= U= u= v= W= We= w= wa= wt= XF XFs Zs
    IS ISp ISs IX jsdl= jsdl_strict= json= ln_mem= ln_slots= tty yaml=
    """,
    "single",
)
REPEATABLE = ("R", "a", "f", "data")
_MINUTES = re.compile(r"(?:(\d{1,6}):)?(\d{1,7})", re.ASCII)
_ARRAY = re.compile(r"\[([^\]]*)\](?:%(\d+))?$")


def read_script(text: str, origin: str) -> list[Given]:
    """Return the options of all `#BSUB` lines.

    Raises:
        UserError: one that bsub doesn't know, or one twice with different values.
    """
    given = read(directive_words(text, "#BSUB", origin), "#BSUB", BSUB)
    refuse_repeats(given, REPEATABLE, "-")
    return given


def interpret(given: Iterable[Given]) -> Request:
    """Return what the options ask for.

    Raises:
        UserError: a value doesn't fit its option, or options contradict each other.
    """
    given = list(given)
    by_name = {each.name: each for each in given}
    check(by_name, given)
    nodes, ranks = _places(by_name, [each for each in given if each.name == "R"])
    _check_warning(by_name)
    asked = {"nodes": nodes or 1, "ranks_per_node": ranks, "cores_per_rank": None, "gpus_per_node": gpus(by_name.get("gpu"))}
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
    """Return the minutes of `[HOURS:]MINUTES`, which may be more than 59; bsub's -W also takes `/HOST` after it.

    Raises:
        UserError: it can't be read, or is zero.
    """
    text = each.value.partition("/")[0] if each.name == "W" else each.value
    match = _MINUTES.fullmatch(text)
    total = int(match[1] or 0) * 60 + int(match[2]) if match else 0
    if not total:
        raise each.wrong(f"-{each.name} {each.value}: Bad time specification; write MINUTES or HOURS:MINUTES")
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
