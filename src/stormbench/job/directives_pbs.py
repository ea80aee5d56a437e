"""PBS Pro's directives: the options of qsub with their grammars, and the chunks of select they add up to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stormbench.core.errors import did_you_mean
from stormbench.job.directives_base import Given, Request, grouped, number, read, refuse_repeats
from stormbench.job.standins.options import table

QSUB = table("A= a= C= c= e= f G? h I J= j= k= l= M= m= N= o= P= p= q= R= r= S= u= V v= W= X z version")
REPEATABLE = ("l", "W", "v")
CHUNK = ("ncpus", "mpiprocs", "ompthreads", "ngpus", "naccelerators", "accelerator_model", "mem", "vmem", "host", "vnode", "arch", "mics",
         "nchunk", "system", "scratch", "cpu_type", "gpu_type", "model")  # fmt: skip
"""Usual names inside select; sites add their own."""
JOB_WIDE = ("walltime", "cput", "pcput", "pmem", "pvmem", "file", "nice", "software", "min_walltime", "max_walltime", "filesystems",
            "storage", "wd", "jobfs", "other", "place", "select", "soft_walltime", "preempt_targets", "max_run_subjobs")  # fmt: skip
_PLACE = re.compile(r"(free|pack|scatter|vscatter)?(:?(excl|exclhost|shared))?(:?group=\w+)?")
_ATTRIBUTES = ("block", "create_resv_from_job", "depend", "group_list", "pwd", "release_nodes_on_stageout", "run_count", "sandbox",
               "stagein", "stageout", "tolerate_node_failures", "umask", "cred", "alt_id", "project", "comment")  # fmt: skip
_DEPEND = re.compile(
    r"(after|afterok|afternotok|afterany|before|beforeok|beforenotok|beforeany|on|runone)(:[\w.\[\]@-]+)+(,\w+(:[\w.\[\]@-]+)+)*"
)
_GRAMMAR = {
    "j": r"oe|eo|n", "r": r"[yn]", "k": r"n|[oed]{1,3}", "m": r"n|[abej]{1,4}", "p": r"[+-]?\d{1,4}", "c": r"[ncsuw]|[cw]=\d+",
    "R": r"[oe]{1,2}",
    "J": r"\d{1,9}-\d{1,9}(:\d{1,9})?(%\d{1,9})?", "q": r"[^\s]+", "A": r".+", "M": r".+", "S": r".+", "o": r".+", "e": r".+",
    "v": r"[^\s=,][^\n]*",
}  # fmt: skip


def read_script(text: str, origin: str) -> list[Given]:
    """Return the options of all `#PBS` lines, each resource of -l and attribute of -W on its own.

    Raises:
        UserError: one that qsub doesn't know, or one twice with different values.
    """
    # a comment behind a directive is not PBS's: its words would become qsub's
    given = split(read(text, "#PBS", QSUB, origin, comments=False))
    refuse_repeats([each for each in given if each.name not in ("l", "W")], REPEATABLE, "-")
    named = [Given(name=_part(each), value=each.value, where=each.where) for each in given if each.name in ("l", "W")]
    for each in named:
        if each.name == "select" and sum(other.name == "select" for other in named) > 1:
            others = [other.where for other in named if other.name == "select"]
            raise named[-1].wrong(
                f"a second select ({' and '.join(others)}) overrides the first; write one select with all chunks, joined by +"
            )
    refuse_repeats(named, (), "")
    return given


def split(given: Iterable[Given]) -> list[Given]:
    """Return the options with `-l a=1,b=2` as two, likewise -W; commas inside a value's own list stay."""
    found = []
    for each in given:
        if each.name not in ("l", "W"):
            found.append(each)
            continue
        parts = re.split(r",(?=[A-Za-z_]\w*=)", each.value) if not each.value.startswith("depend=") else [each.value]
        found += [Given(name=each.name, value=part, where=each.where) for part in parts]
    return found


def key(each: Given) -> str:
    """Return what a later layer of options replaces: the option, or one resource of it."""
    return f"{each.name} {_part(each)}" if each.name in ("l", "W") else each.name


def interpret(given: Iterable[Given]) -> Request:
    """Return what the options ask for.

    Raises:
        UserError: a value doesn't fit its option, or options contradict each other.
    """
    given = list(given)
    by_key = {key(each): each for each in given}
    for each in given:
        _check(each, "l select" in by_key)
    select = by_key.get("l select")
    chunks = _chunks(select) if select else []
    nodes = sum(count for count, _ in chunks) or 1
    ranks, cores, gpus = (_common(chunks, name) for name in ("mpiprocs", "ncpus", "ngpus"))
    walltime, array = by_key.get("l walltime"), by_key.get("J")
    if not select:
        cores = _total(by_key.get("l ncpus"))
        gpus = _total(by_key.get("l ngpus"))
    return Request(
        nodes=nodes, ranks_per_node=ranks, cores_per_rank=max(1, cores // ranks) if cores and ranks else None, gpus_per_node=gpus or 0,
        wall_s=wall_time(walltime) if walltime else None, name=by_key["N"].value if "N" in by_key else None,
        queue=by_key["q"].value if "q" in by_key else None, array=_indices(array) if array else (), options=grouped(given),
    )  # fmt: skip


def wall_time(each: Given) -> int:
    """Return seconds for `SECONDS`, `MM:SS` or `HH:MM:SS`.

    Raises:
        UserError: it can't be read, is zero, or has minutes or seconds of 60 or more behind a larger unit.
    """
    text = each.value.partition("=")[2]
    parts = [int(part) for part in text.split(":")] if re.fullmatch(r"\d{1,9}(:\d\d){0,2}", text, re.ASCII) else []
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    if not seconds or any(part > 59 for part in parts[1:]):
        raise each.wrong(f"-l {each.value}: Illegal attribute or resource value; write HH:MM:SS, MM:SS or seconds, with parts below 60")
    return seconds


def _part(each: Given) -> str:
    return each.value.partition("=")[0]


def _check(each: Given, selects: bool) -> None:
    """Check one option's value by its grammar."""
    pattern = _GRAMMAR.get(each.name)
    if pattern and not re.fullmatch(pattern, each.value, re.ASCII):
        raise each.wrong(f"-{each.name} {each.value}: illegal -{each.name} value")
    # the first character may be no symbol, so that a name is never taken for an option
    if each.name == "N" and not re.fullmatch(r"[A-Za-z0-9][!-~]{0,229}", each.value, re.ASCII):
        raise each.wrong(
            f"-N {each.value}: illegal -N value; a name has at most 230 characters without blanks and begins with a letter or digit"
        )
    if each.name == "l":
        _check_resource(each, selects)
    if each.name == "W":
        name, sign, value = each.value.partition("=")
        if not sign or name not in _ATTRIBUTES:
            raise each.wrong(f"-W {each.value}: illegal -W value{did_you_mean(name, _ATTRIBUTES)}")
        if name == "depend" and not _DEPEND.fullmatch(value):
            raise each.wrong(f"-W {each.value}: illegal -W value; write depend=afterok:JOB")


def _check_resource(each: Given, selects: bool) -> None:
    name, sign, value = each.value.partition("=")
    if name == "wd" and not sign:
        return
    if not sign or not value or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise each.wrong(f"-l {each.value}: Illegal attribute or resource value; write -l NAME=VALUE")
    _check_name(each, name, (*CHUNK, *JOB_WIDE))
    if selects and name in CHUNK and name != "software":
        raise each.wrong(f'-l {each.value}: "-lresource=" cannot be used with "select" or "place"; put :{each.value} into the select')
    if name == "place" and not _PLACE.fullmatch(value):
        raise each.wrong(f"-l {each.value}: Illegal place; use free, pack, scatter or vscatter, with :excl, :exclhost or :shared")
    if name == "walltime":
        wall_time(each)


def _check_name(each: Given, name: str, known: tuple[str, ...]) -> None:
    """Raise for a name that looks like a misspelled one; others may be the site's own."""
    near = did_you_mean(name, [other for other in known if abs(len(other) - len(name)) <= 1 and other[0] == name[0]])
    if name not in known and near and len(name) > 3:
        raise each.wrong(f"-l {each.value}: Unknown resource {name}{near}")


def _chunks(each: Given) -> list[tuple[int, dict[str, str]]]:
    """Return number and resources of each chunk in `select=2:ncpus=4:mpiprocs=2+1:ncpus=8`."""
    found = []
    for chunk in each.value.partition("=")[2].split("+"):
        first, *rest = re.split(r":(?=[A-Za-z_])", chunk)
        if not first.isdigit():
            rest, first = [first, *rest], "1"
        resources: dict[str, str] = {}
        for item in rest:
            name, sign, value = item.partition("=")
            if not sign or not value or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name in resources:
                raise each.wrong(f"-l {each.value}: Illegal attribute or resource value {item!r}; write each resource once, as NAME=VALUE")
            _check_name(each, name, CHUNK)
            if name in JOB_WIDE:
                raise each.wrong(f"-l {each.value}: {name} belongs to the whole job; write it as -l {item}")
            if name in ("ncpus", "mpiprocs", "ngpus", "ompthreads", "naccelerators"):
                number(each, value, name, 0 if name != "mpiprocs" else 1)
            resources[name] = value
        found.append((number(each, first, "select"), resources))
    return found


def _common(chunks: list[tuple[int, dict[str, str]]], name: str) -> int | None:
    """Return the value that all chunks share, or None."""
    values = {resources.get(name) for _, resources in chunks}
    value = values.pop() if len(values) == 1 else None
    return int(value) if value else None


def _total(each: Given | None) -> int | None:
    return number(each, each.value.partition("=")[2], each.value.partition("=")[0]) if each else None


def _indices(each: Given) -> tuple[int, ...]:
    low, high, step = (int(part or 1) for part in re.match(r"(\d+)-(\d+)(?::(\d+))?", each.value).groups())  # type: ignore[union-attr]
    if high <= low or step < 1 or high - low > 10**5:
        raise each.wrong(f"-J {each.value}: illegal -J value; write FIRST-LAST[:STEP] with the last above the first")
    return tuple(range(low, high + 1, step))
