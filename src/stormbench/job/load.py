"""From a shell config to a checked job: source it, type every variable by its declaration, lay the ranks out, apply the rules."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

from stormbench.core.arguments import Parser, add_options, given_flags
from stormbench.core.errors import UserError
from stormbench.core.options import Option, blank, options_of, resolve
from stormbench.core.workloads import WORKLOADS
from stormbench.job import known
from stormbench.job.config import RUNTIMES_OF, JobConfig
from stormbench.job.findings import ERROR, Finding, error, warning
from stormbench.job.layout import Layout
from stormbench.job.source import Sourced, source_config

ENVIRONMENT = "the environment"
LAYOUT_VARIABLES = frozenset({
    "DGXNNODES", "DGXNGPU", "WALLTIME", "TRAINING_INSTANCE_SIZE", "STORMBENCH_CORES_PER_NODE", "STORMBENCH_CORES_PER_RANK",
    "STORMBENCH_GPUS_PER_NODE", "STORMBENCH_GPU_VENDOR",
})  # fmt: skip
"""What a layout is made of; where one of them is wrong, there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One checked job.

    `values` are the variables by name that the job will have, `origin` where each came from; `own` are those that the config
    itself set. `workload` is the benchmark's typed config, None where one of its values is wrong. `layout` likewise. `wrong` are the
    variables whose values don't fit their options.
    """

    path: str
    config: JobConfig
    workload: Any
    layout: Layout | None
    values: dict[str, str]
    own: frozenset[str]
    origin: dict[str, str]
    own_benchmark: str
    findings: tuple[Finding, ...]
    wrong: frozenset[str] = frozenset()
    flags: dict[str, str] = dataclasses.field(default_factory=dict)
    """By variable, the words of ADDITIONAL_ARGS that stand above it."""

    @property
    def benchmark(self) -> str:
        return self.config.benchmark

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level != ERROR)

    def where(self, *names: str) -> str:
        """Return the place that set the first of these variables that is set, else the config's path."""
        return next((self.origin[name] for name in names if name in self.origin), self.path)

    def said(self, name: str) -> str:
        """Return `NAME=value` as the config has it, the flag that overrules it, or the default's value."""
        if name in self.flags:
            return f"{self.flags[name]} in ADDITIONAL_ARGS"
        if name in self.values:
            return f"{name}={self.values[name]}"
        spec = known.job_options().get(name) or known.workload_options(self.benchmark).get(name)
        default = "" if spec is None or spec.default is None else spec.default
        return f"{name}={' '.join(map(str, default)) if isinstance(default, tuple) else default} (the default)"


def load(path: str | os.PathLike[str], environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Job:
    """Source and check the config at `path`; `overrides` are variables that the command line sets above it.

    Raises:
        UserError: the config can't be sourced to its end. Everything else is in the job's findings.
    """
    path = os.fspath(path)
    sourced = source_config(path, known.passed_through(environ), environ)
    overrides = dict(overrides or {})
    implied = _implied_runtime({**sourced.passed, **sourced.exported, **overrides}, overrides)
    values = {**sourced.passed, **sourced.exported, **overrides, **implied}
    origin = {**dict.fromkeys(sourced.passed, ENVIRONMENT), **sourced.origin, **dict.fromkeys(overrides, "the command line")}
    origin |= dict.fromkeys(implied, origin.get("CONT", path))
    findings = [*sourced.findings, *_names(sourced, values), *_without_effect(values, origin)]
    problems: list[Finding] = []
    config = _typed(JobConfig, values, origin, problems)
    workload_problems: list[Finding] = []
    for benchmark in WORKLOADS:
        _parse_all(known.workload_options(benchmark).values(), values, origin, workload_problems)
    findings += problems + list(dict.fromkeys(workload_problems)) + _unlike_in_shells(values, origin)
    own = frozenset(sourced.origin) - frozenset(sourced.unexported)
    own_benchmark = {**sourced.passed, **sourced.exported}["STORMBENCH_BENCHMARK"] if "STORMBENCH_BENCHMARK" in own else "deepcam"
    job = Job(
        path=path, config=config, workload=None, layout=None, values=values, own=own, origin=origin,
        wrong=frozenset(finding.text.partition("=")[0] for finding in [*problems, *workload_problems]),
        own_benchmark=own_benchmark if own_benchmark in WORKLOADS else "deepcam", findings=(),
    )  # fmt: skip
    # what the workload will be told on its command line stands above the variables, for the rules too
    flags = _flags(job, findings) if job.own_benchmark == job.benchmark else {}
    place = job.where("ADDITIONAL_ARGS")
    specs = known.workload_options(job.benchmark)
    told = dataclasses.replace(
        job, values={**values, **flags}, origin={**origin, **dict.fromkeys(flags, place)},
        flags={name: f"{specs[name].flag} {text}".rstrip() for name, text in flags.items()},
    )  # fmt: skip
    workload = None if workload_problems else _workload(told, findings)
    layout = _layout(job, findings)
    from stormbench.job.rules import apply

    findings = [finding for finding in findings if not _of_a_wrong_value(finding, job)]
    findings += apply(dataclasses.replace(told, workload=workload, layout=layout))
    return dataclasses.replace(job, workload=workload, layout=layout, findings=tuple(dict.fromkeys(findings)))


def _of_a_wrong_value(finding: Finding, job: Job) -> bool:
    """Whether bash only stumbled over a value that has its own finding, as in `[ "$DGXNNODES" -ge 10 ]`."""
    stumbled = re.match(r"\[{1,2}: (.*): integer expression expected", finding.text)
    return stumbled is not None and any(job.values.get(name, "") == stumbled[1] for name in job.wrong)


def _implied_runtime(values: Mapping[str, str], overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the runtime that goes with an image where none is named, or with another scheduler than the config's own."""
    scheduler = values.get("STORMBENCH_SCHEDULER", "slurm")
    usual = {"slurm": "pyxis", "docker": "docker"}.get(scheduler, "apptainer")
    runtime = values.get("STORMBENCH_RUNTIME", "").strip()
    if not runtime:
        return {"STORMBENCH_RUNTIME": usual} if values.get("CONT", "").strip() or scheduler == "docker" else {}
    moved = "STORMBENCH_SCHEDULER" in overrides and "STORMBENCH_RUNTIME" not in overrides
    return {"STORMBENCH_RUNTIME": usual} if moved and runtime not in RUNTIMES_OF.get(scheduler, (runtime,)) else {}


def _names(sourced: Sourced, values: Mapping[str, str]) -> list[Finding]:
    """Return what is wrong with the names: unknown ones, and documented ones that are set but not exported."""
    found = []
    extra = set(values.get("STORMBENCH_EXPORT", "").split())
    for name in sourced.exported:
        if name not in extra and not known.passes(name):
            fix = known.suggestion(name) or "; remove it, or name it in STORMBENCH_EXPORT if the job needs it"
            found.append(error(sourced.origin[name], f"{name} is not a variable of this kit{fix}"))
    for name, value in sourced.unexported.items():
        if name in sourced.arrays and (name in extra or known.passes(name)):
            text = shlex.quote(sourced.arrays[name])
            told = f"{name} is an array, set but not exported: bash exports no arrays; write the words as one text: export {name}={text}"
            found.append(error(sourced.origin[name], told))
        elif name in known.documented():
            told = f"{name}={value} is set but not exported, so no job would see it; write export {name}"
            found.append(error(sourced.origin[name], told))
        elif near := _misspelled(name):
            found.append(warning(sourced.origin[name], f"{name} is set but not exported{near}"))
    return found


def _misspelled(name: str) -> str:
    return known.suggestion(name) if name.isupper() and len(name) > 4 else ""


def _without_effect(values: Mapping[str, str], origin: Mapping[str, str]) -> list[Finding]:
    names = [name for name in values if name in known.WITHOUT_EFFECT and values[name].strip() not in ("", "0", "1.0", "false")]
    return [warning(origin[name], f"{name}={values[name]} has no effect: {known.WITHOUT_EFFECT[name]}") for name in names]


def _unlike_in_shells(values: Mapping[str, str], origin: Mapping[str, str]) -> list[Finding]:
    """Return the whole numbers of a job that python reads, but with which a shell computes otherwise or not at all, such as 016."""
    found = []
    for name, spec in {**known.job_options(), "SEED": known.workload_options("deepcam")["SEED"]}.items():
        text = values.get(name, "")
        if spec.kind is int and not spec.convert and not spec.many and text and blank(text):
            told = f"{name}={text!r}: is blank, but set, and the job script computes with it; write a number, or leave {name} out"
            found.append(error(origin.get(name, ENVIRONMENT), told))
        elif spec.kind is int and not spec.convert and not spec.many and re.fullmatch(r"\s*[+]?[0-9]+\s*", text, re.ASCII):
            plain = str(int(text)) if len(text) < 20 else text
            if text != plain:
                told = f"{name}={text!r}: the job script computes with it, and shells read a sign, blank or leading 0 otherwise"
                found.append(error(origin.get(name, ENVIRONMENT), f"{told}; write {plain}"))
    return found


def _parse_all(specs: Any, values: Mapping[str, str], origin: Mapping[str, str], problems: list[Finding]) -> dict[str, Any]:
    """Return the typed values of those variables that fit their option; the others' sentences go to `problems`."""
    typed = {}
    for spec in specs:
        text = values.get(spec.variable, "")
        if not blank(text):
            try:
                typed[spec.name] = spec.parse(text, f"{spec.variable}={text}")
            except UserError as wrong:
                problems.append(error(origin.get(spec.variable, ENVIRONMENT), str(wrong)))
            except OverflowError:
                told = f"{spec.variable}={text[:20]}...: must be a smaller number, not one of {len(text)} digits"
                problems.append(error(origin.get(spec.variable, ENVIRONMENT), told))
    return typed


def _typed(declared: type, values: Mapping[str, str], origin: Mapping[str, str], problems: list[Finding]) -> Any:
    """Return the job's config with those values that fit, defaults for the others."""
    specs: list[Option] = options_of(declared)
    return declared(**_parse_all(specs, values, origin, problems))


def _flags(job: Job, findings: list[Finding]) -> dict[str, str]:
    """Return by variable what ADDITIONAL_ARGS tells the workload; a word that it would refuse goes to `findings`."""
    words = job.config.additional_args.split()
    if not words:
        return {}
    declared = WORKLOADS[job.benchmark].options()
    parser = Parser(prog=f"stormbench {job.benchmark} train", add_help=False)
    add_options(parser, declared)
    try:
        given = given_flags(parser.parse_args(words), declared)
        flags = {spec.variable: text for spec in options_of(declared) if (text := given[spec.name]) is not None}
        for spec in options_of(declared):
            if spec.variable in flags:
                spec.parse(flags[spec.variable], f"{spec.flag} {flags[spec.variable]}")
    except UserError as wrong:
        findings.append(error(job.where("ADDITIONAL_ARGS"), f"{job.said('ADDITIONAL_ARGS')}: {wrong}"))
        return {}
    return flags


def _workload(job: Job, findings: list[Finding]) -> Any:
    """Return the benchmark's typed config, or None if the workload itself would refuse the combination."""
    # what the job script fills in at run time
    at_run_time = {"DATADIR": "/data"}
    if job.config.clear_caches:
        at_run_time["STORMBENCH_CACHE_CLEARED"] = "1"
    try:
        return resolve(WORKLOADS[job.benchmark].options(), {}, {**at_run_time, **job.values})[0]
    except UserError as wrong:
        text = _in_variables(str(wrong), job)
        names = [name for name in job.values if name in text or (name in job.flags and job.flags[name] in text)]
        findings.append(error(job.where(*sorted(names, key=text.find)), text))
        return None


def _in_variables(text: str, job: Job) -> str:
    """Return a workload's sentence, which speaks of flags, in the words of a config: its variables, or its ADDITIONAL_ARGS."""
    for spec in sorted(known.workload_options(job.benchmark).values(), key=lambda spec: -len(spec.name)):
        text = re.sub(rf"{spec.flag} ([^\s;,]+)", rf"{spec.variable}=\1", text)
        text = re.sub(rf"{spec.flag}\b" + (rf"|(?<![\w=-]){spec.name}\b" if "_" in spec.name else ""), spec.variable, text)
    for name, words in job.flags.items():
        text = text.replace(f"{name}={job.values[name]}", f"{words} in ADDITIONAL_ARGS")
    return text


def _layout(job: Job, findings: list[Finding]) -> Layout | None:
    """Return the layout, or None with a finding if its numbers contradict each other."""
    config = job.config
    if job.wrong & LAYOUT_VARIABLES:
        return None
    shares = config.cores_per_node // config.ranks_per_node
    instances = 1
    if config.instance_size:
        ranks, size = config.nodes * config.ranks_per_node, config.instance_size
        if size % config.ranks_per_node or ranks % size:
            findings.append(error(
                job.where("TRAINING_INSTANCE_SIZE"),
                f"TRAINING_INSTANCE_SIZE={size}: {config.nodes} nodes x {config.ranks_per_node} ranks don't divide into instances of "
                f"{size} ranks on whole nodes; use a multiple of DGXNGPU={config.ranks_per_node} that divides {ranks}",
            ))  # fmt: skip
            return None
        instances = ranks // size
    gpus = 0 if config.gpu_vendor == "none" else config.gpus_per_node
    return Layout(
        nodes=config.nodes,
        ranks_per_node=config.ranks_per_node,
        cores_per_rank=config.cores_per_rank or shares,
        gpus_per_node=gpus,
        wall_s=config.walltime,
        instances=instances,
    )
