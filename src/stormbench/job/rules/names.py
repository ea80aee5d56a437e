"""A config's file name against its content: the name is what people quote, so it must say what the file does."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stormbench.core.errors import UserError
from stormbench.core.workloads import WORKLOADS
from stormbench.job import known
from stormbench.job.findings import Finding, counted, error, warning

if TYPE_CHECKING:
    from stormbench.job.load import Job

_GRAMMAR = re.compile(r"config_(?P<system>.+?)_(?P<sizes>[0-9]+(?:x[0-9]+){2,3})(?P<tags>(?:_[^_]+)*)\.sh", re.ASCII)
STRONG = "config_<SYSTEM>_<nodes>x<accelerators>x<local batch>[_tag].sh"
WEAK = "config_<SYSTEM>_<instances>x<nodes per instance>x<accelerators>x<local batch>_weak.sh"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConfigName:
    """What a config's file name says; `sizes` has four numbers in a weak-scaling name, three in any other."""

    system: str
    sizes: tuple[int, ...]
    spelled: tuple[str, ...]
    written: str

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in small letters: NERSC10 claims what nersc10 does."""
        return tuple(tag.lower() for tag in self.spelled)

    @property
    def weak(self) -> bool:
        return "weak" in self.tags

    @property
    def in_grammar(self) -> bool:
        return len(self.sizes) == (4 if self.weak else 3)

    @property
    def systems(self) -> tuple[str, ...]:
        """What DGXSYSTEM may be: the system, or the name's whole stem as published kits set it."""
        return (self.system, f"{self.system}_{self.written}", "_".join((self.system, self.written, *self.spelled)))

    def renamed(self, position: int, value: int) -> str:
        """Return the file name with one of the numbers replaced."""
        sizes = [*self.sizes[:position], value, *self.sizes[position + 1 :]]
        return "config_" + "_".join((self.system, "x".join(map(str, sizes)), *self.spelled)) + ".sh"


def read_name(path: str) -> ConfigName | None:
    """Return what a config's file name says, None if it doesn't fit the grammar at all."""
    match = _GRAMMAR.fullmatch(Path(path).name)
    if match is None:
        return None
    sizes = tuple(int(size) for size in match["sizes"].split("x"))
    return ConfigName(system=match["system"], sizes=sizes, spelled=tuple(match["tags"].split("_")[1:]), written=match["sizes"])


def _name_against_content(job: Job) -> Iterator[Finding]:
    """The numbers and the system that the name says must be those that the config sets."""
    name = read_name(job.path)
    if name is None or not name.in_grammar:
        yield warning(job.path, f"the file's name is outside the grammar {STRONG} or {WEAK}, so it can't be checked against the content")
    if name is not None:
        yield from _instances(job, name)
        if name.in_grammar:
            yield from _system(job, name)
            yield from _sizes(job, name)


def _instances(job: Job, name: ConfigName) -> Iterator[Finding]:
    size = job.config.instance_size
    if name.weak and not size and name.in_grammar:
        ranks = name.sizes[1] * name.sizes[2]
        yield error(
            job.path, f"the name says weak scaling, but TRAINING_INSTANCE_SIZE is not set; set it to {ranks} ranks, or rename the file"
        )
    elif name.weak and not size:
        yield error(job.path, "the name says weak scaling, but TRAINING_INSTANCE_SIZE is not set; set it, or take _weak from the name")
    elif not name.weak and job.layout is not None and job.layout.instances > 1:
        yield error(
            job.where("TRAINING_INSTANCE_SIZE"),
            f"TRAINING_INSTANCE_SIZE={size} makes {counted(job.layout.instances, 'instance')}, but the file's name isn't a weak-scaling "
            f"one; rename it to {WEAK}, or remove TRAINING_INSTANCE_SIZE",
        )


def _system(job: Job, name: ConfigName) -> Iterator[Finding]:
    if job.config.system not in name.systems:
        said = f"DGXSYSTEM={job.config.system}" if job.config.system else "DGXSYSTEM is not set"
        yield error(
            job.where("DGXSYSTEM"), f"{said}, but the file's name says {name.system}; change DGXSYSTEM to {name.system}, or rename the file"
        )


def _sizes(job: Job, name: ConfigName) -> Iterator[Finding]:
    config, layout = job.config, job.layout
    *front, ranks, batch = name.sizes
    if name.weak:
        instances, per_instance = front
        nodes = instances * per_instance
        if config.nodes == nodes and layout is not None and config.instance_size and layout.instances != instances:
            yield error(
                job.where("TRAINING_INSTANCE_SIZE"),
                f"TRAINING_INSTANCE_SIZE={config.instance_size} makes {counted(layout.instances, 'instance')} of "
                f"{counted(layout.nodes_per_instance, 'node')}, but the file's name says {instances} of {per_instance}; "
                f"change it to {per_instance * ranks}, or rename the file",
            )
        words = f"{instances} instances x {per_instance} = {nodes} nodes"
    else:
        nodes, words = front[0], f"{front[0]} nodes"
    if config.nodes != nodes:
        rename = "the file" if name.weak else f"the file to {name.renamed(0, config.nodes)}"
        yield _differs(job, "DGXNNODES", words, nodes, rename)
    if config.ranks_per_node != ranks:
        renamed = name.renamed(len(name.sizes) - 2, config.ranks_per_node)
        yield _differs(job, "DGXNGPU", f"{ranks} accelerators a node", ranks, f"the file to {renamed}")
    variable = WORKLOADS[job.own_benchmark].batch
    own = _own_batch(job, variable)
    if own is not None and own != batch:
        renamed = name.renamed(len(name.sizes) - 1, own)
        yield _differs(job, variable, f"local batch {batch}", batch, f"the file to {renamed}")


def _differs(job: Job, variable: str, words: str, wanted: int, rename: str) -> Finding:
    said = job.said(variable)
    if said.endswith("= (the default)"):
        said = f"{variable}={known.workload_options(job.own_benchmark)[variable].default} (the default)"
    return error(job.where(variable), f"{said}, but the file's name says {words}; change {variable} to {wanted}, or rename {rename}")


def _own_batch(job: Job, variable: str) -> int | None:
    """Return the local batch of the config's own benchmark; None where the value is wrong, which has its own finding."""
    spec = known.workload_options(job.own_benchmark)[variable]
    text = job.values.get(variable, "")
    if not text.strip():
        return int(spec.default)
    try:
        return int(spec.parse(text, variable))
    except (UserError, OverflowError):
        return None


def _set_by_jobs(job: Job) -> Iterator[Finding]:
    """Variables that the job script sets for each trial are overruled."""
    for name in known.SET_BY_JOBS:
        if name in job.own:
            yield warning(job.where(name), f"{job.said(name)} has no effect: the job sets {name} itself for each trial; remove it")


def _unverified(job: Job) -> Iterator[Finding]:
    if job.config.unverified:
        yield warning(
            job.where("STORMBENCH_UNVERIFIED"),
            "no site document confirms this system's facts (STORMBENCH_UNVERIFIED=1); compare them with the site's before submitting",
        )


RULES = (_name_against_content, _set_by_jobs, _unverified)
