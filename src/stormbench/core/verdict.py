"""The verdict on a run's MLPerf log: what the official checker says of it, in one of four words that a user can act on."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import stormbench
from stormbench.core.errors import EXIT_DONE, EXIT_FAILED, UserError
from stormbench.core.mllog import TARGET_MISSED

COMPLIANT = "compliant"
COMPLETE_TARGET_MISSED = "complete, target missed"
NON_COMPLIANT = "non-compliant"
FAILED = "failed"
USAGE, RULESET = "hpc", "3.0.0"
RULES = {"cloudmask": Path(stormbench.__file__).parent / "cloudmask" / "rules" / "cloudmask.yaml"}
"""Rules of benchmarks that the checker knows none of, in its own grammar. Its `--config` takes such a file by its whole path."""
ONCE = ("init_stop", "run_start", "run_stop")
"""What a run logs once. The official checker only warns of a second line, though it means that two runs wrote one log."""
_MISSED = re.compile(r"Failed checks for eval_accuracy\b(?:.*?>=\s*(?P<target>[\d.]+))?")
_NOT_EVALUATED = re.compile(r"Required AT_LEAST_ONE occurrence of '(eval_accuracy|eval_start|eval_stop|block_start|block_stop)'")
_SETTING = re.compile(r"CHECK for '(patch_size|seed)' failed")
"""Of what the rules of CloudMask fix, and a run that is not to be submitted may choose otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One of the four verdicts, why, and the checker's complaints, one line each."""

    verdict: str
    reason: str
    complaints: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_DONE if self.verdict in (COMPLIANT, COMPLETE_TARGET_MISSED) else EXIT_FAILED

    @property
    def only_settings(self) -> bool:
        """Whether the run is complete and non-compliant only for settings that the rules fix, apart from a missed target."""
        told = [bool(_SETTING.match(text)) for text in self.complaints]
        missed = [bool(_MISSED.match(text)) for text in self.complaints]
        return self.verdict == NON_COMPLIANT and any(told) and all(a or b for a, b in zip(told, missed, strict=True))


def judge(log: Path) -> Verdict:
    """Judge an MLPerf log by the official checker and by how the run ended.

    The checker goes by its own rules, usage hpc and ruleset 3.0.0; for a benchmark in RULES, as the log's
    submission_benchmark names it, by the rules there.

    A log without `run_stop`, or stopped for another reason than a missed target, is `failed`, whatever else it holds.

    Raises:
        UserError: the file can't be read.
    """
    events = read_events(log)
    stops = [event for event in events if event["key"] == "run_stop"]
    if not stops:
        return Verdict(verdict=FAILED, reason="the log has no run_stop: the run was killed, is still running, or waits to be continued")
    for stop in stops:
        status, reason = _metadata(stop).get("status"), _metadata(stop).get("reason")
        if status != "success" and not (status == "aborted" and reason == TARGET_MISSED):
            return Verdict(verdict=FAILED, reason=f"run_stop has status {status}" + (f": {reason}" if reason else ""))
    rules = _rules(events)
    complaints = _official_complaints(log, rules)
    for key in ONCE:
        count = sum(event["key"] == key for event in events)
        if count > 1:
            why = f"the log has {count} {key} lines, must have one: more than one run wrote into it"
            return Verdict(verdict=NON_COMPLIANT, reason=why, complaints=complaints)
    if not complaints:
        return Verdict(verdict=COMPLIANT, reason=f"the official checker ({_named(rules)}) has no complaint")
    shortfall = _shortfall(events, _metadata(stops[0]), complaints)
    if shortfall is not None:
        return Verdict(verdict=COMPLETE_TARGET_MISSED, reason=shortfall, complaints=complaints)
    return Verdict(verdict=NON_COMPLIANT, reason=f"the official checker has {len(complaints)} complaint(s)", complaints=complaints)


def _shortfall(events: list[dict[str, Any]], stop: dict[str, Any], complaints: tuple[str, ...]) -> str | None:
    """Return how a complete run came short of the target, if that is all that the complaints are about."""
    if not any(event["key"] == "eval_accuracy" for event in events):
        # only a run that was told to skip validation is complete without it
        skipped = stop.get("validation") == "disabled" and all(_NOT_EVALUATED.match(text) for text in complaints)
        return "validation was disabled, so nothing shows the target" if skipped else None
    missed = [_MISSED.match(text) for text in complaints]
    if not all(missed):
        return None
    official = next((match["target"] for match in missed if match and match["target"]), None)
    reached = next((_metadata(event) for event in events if event["key"] == "target_reached"), {})
    own = reached.get("target_iou", reached.get("target_accuracy"))
    if stop.get("status") == "success" and official is not None and isinstance(own, (int, float)) and own < float(official):
        return f"reached its own target {own:g}, which is below the checker's {official}"
    return "the official checker's only complaint is the accuracy"


def _metadata(event: dict[str, Any]) -> dict[str, Any]:
    found = event.get("metadata")
    return found if isinstance(found, dict) else {}


def read_events(log: Path) -> list[dict[str, Any]]:
    """Return the `:::MLLOG` lines of a file as dictionaries; other lines, and a last one cut short, are passed over.

    Raises:
        UserError: the file can't be read.
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{log}: can't be read ({why}); give a result_<n>.txt or its run folder") from error
    events = []
    for line in lines:
        _, token, text = line.partition(":::MLLOG ")
        if token:
            try:
                event = json.loads(text)
            except ValueError:
                continue
            if isinstance(event, dict) and "key" in event:
                events.append(event)
    return events


def _rules(events: list[dict[str, Any]]) -> Path | None:
    """Return the rules for the benchmark that the log names, or None where the checker's own are used."""
    named = next((event.get("value") for event in events if event["key"] == "submission_benchmark"), None)
    return RULES.get(named) if isinstance(named, str) else None


def _named(rules: Path | None) -> str:
    return f"{USAGE} {RULESET}" if rules is None else f"rules {rules.name}"


def _official_complaints(log: Path, rules: Path | None) -> tuple[str, ...]:
    from mlperf_logging.compliance_checker import mlp_compliance

    checker = mlp_compliance.make_checker(USAGE, RULESET, quiet=True, werror=False)
    # the checker reports through the root logger; its messages are taken from the object instead
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    # rules that a log before this one asked for, if the checker broke off there
    mlp_compliance.enqueued_configs.clear()
    failure = []
    try:
        with redirect_stdout(io.StringIO()):
            # the checker joins this to its own folder, which a whole path overrides
            mlp_compliance.main(str(log), str(rules.resolve()) if rules is not None else f"{USAGE}_{RULESET}/common.yaml", checker)
    except Exception as error:  # some rules compare values of any type, such as an accuracy that is null
        failure = [f"the official checker broke off: {error}"]
    finally:
        logging.disable(previous)
    messages = [*checker.overwritable.values(), *checker.not_overwritable, *failure]
    return tuple(_first_lines(text) for text in messages)


def _first_lines(message: str) -> str:
    """Return a complaint without the dumps of the checker's state that follow it."""
    kept = [line for line in message.splitlines() if line.strip() and not line.startswith((":::MLLOG", "current ", "{", "}", " "))]
    return "; ".join(kept)
