"""A good config, and ways to spoil it: shared by the tests of `stormbench check` and the benchmark that spoils ten thousand."""

from __future__ import annotations

import dataclasses
import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from stormbench.job.known import job_options, workload_options

NAME = "config_TEST_2x4x2.sh"
GOOD = {
    "DGXSYSTEM": "TEST", "DGXNNODES": "2", "DGXNGPU": "4", "WALLTIME": "02:00:00", "SEED": "333", "NEXP": "5",
    "LOCAL_BATCH_SIZE": "2", "GRADIENT_ACCUMULATION_FREQUENCY": "8", "BATCHNORM_GROUP_SIZE": "1", "OPTIMIZER": "LAMB",
    "START_LR": "0.00155", "WEIGHT_DECAY": "0.01", "LR_SCHEDULE_TYPE": "cosine_annealing", "LR_T_MAX": "9000",
    "LR_WARMUP_STEPS": "0", "MAX_EPOCHS": "50", "PRECISION_MODE": "amp", "DATA_FORMAT": "dummy", "STORMBENCH_DUMMY_TRAIN": "512",
    "MAX_THREADS": "4", "STORMBENCH_SCHEDULER": "slurm", "STORMBENCH_RUNTIME": "none", "STORMBENCH_CORES_PER_NODE": "64",
    "STORMBENCH_CORES_PER_RANK": "16", "STORMBENCH_GPUS_PER_NODE": "4", "STORMBENCH_GPU_MEMORY": "40", "STORMBENCH_GPU_VENDOR": "nvidia",
    "STORMBENCH_RANK_CORES": "0-15 16-31 32-47 48-63", "STORMBENCH_NICS": "mlx5_0 mlx5_1",
    "STORMBENCH_LIMITS": "debug:nodes=4,minutes=30 regular:nodes=8,gpus=32,minutes=720 large:nodes=64,min_nodes=4,minutes=1440",
    "SBATCH_QOS": "regular", "SBATCH_GPUS": "8", "SBATCH_GPUS_PER_NODE": "4", "SBATCH_TIMELIMIT": "02:00:00",
}  # fmt: skip
"""Two nodes of four GPUs at global batch 128: nothing is to be said of it."""
COUNTS = ("DGXNNODES", "DGXNGPU", "SEED", "NEXP", "LOCAL_BATCH_SIZE", "BATCHNORM_GROUP_SIZE", "MAX_EPOCHS", "MAX_THREADS", "LR_T_MAX")
CHOICES = ("OPTIMIZER", "LR_SCHEDULE_TYPE", "PRECISION_MODE", "STORMBENCH_SCHEDULER", "STORMBENCH_RUNTIME", "STORMBENCH_GPU_VENDOR")


def text_of(values: dict[str, str]) -> str:
    """Return the shell config that exports `values`."""
    return "# shellcheck shell=bash\n" + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def write_config(folder: Path, name: str = NAME, /, **changes: str | None) -> Path:
    """Write the good config with `changes`, of which None removes a variable."""
    path = folder / name
    path.write_text(text_of({key: value for key, value in {**GOOD, **changes}.items() if value is not None}))
    return path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoiled:
    """A spoiled config. `deserved` is a pattern that one of its errors must match, None where nothing certain can be said."""

    how: str
    content: bytes
    name: str = NAME
    deserved: str | None = None


ODD_NUMBERS = ("-1", "0", "1", "3", "7", "1e9", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1_000", "08", "2147483648", "65537")
ODD_NAMES = ("x.sh", "config_TEST_2x4.sh", "config_A b_2x4x2.sh", "config_é_2x4x2.sh", "config_TEST_2x4x2_weak.sh",
             "config_TEST_1x2x4x2_weak.sh", "a\nb.sh")  # fmt: skip
Mutator = Callable[[random.Random, str], Spoiled]


def _pick(chance: random.Random, text: str, names: tuple[str, ...] | None = None) -> tuple[str, str]:
    """Return name and value of one export of `text`."""
    found = re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE)
    return chance.choice([pair for pair in found if names is None or pair[0] in names])


def _set(text: str, name: str, value: str) -> bytes:
    return re.sub(rf"^export {name}=.*$", lambda _: f"export {name}={value}", text, flags=re.MULTILINE).encode()


def drop_line(chance: random.Random, text: str) -> Spoiled:
    lines = text.splitlines(keepends=True)
    lines.pop(chance.randrange(len(lines)))
    return Spoiled(how="line dropped", content="".join(lines).encode())


def duplicate_line(chance: random.Random, text: str) -> Spoiled:
    lines = text.splitlines(keepends=True)
    lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    return Spoiled(how="line repeated", content="".join(lines).encode())


def random_value(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text)
    letters = "0123456789abcxyzXN_-+.,:;=*?[]{}()<&|!~^%@#$'\"\\ \té٣\u2028"
    value = "".join(chance.choice(letters) for _ in range(chance.randrange(12)))
    return Spoiled(how="random value", content=_set(text, name, shlex.quote(value) if chance.randrange(2) else value))


def other_number(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text)
    value = chance.choice(ODD_NUMBERS)
    return Spoiled(how="other number", content=_set(text, name, value))


def huge_number(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text, COUNTS)
    # beyond a float, and beyond what python turns into text
    value = "9" * chance.choice([25, 310, 4300, 5000])
    deserved = None if name in ("MAX_EPOCHS", "LR_T_MAX") else f"{name}="
    return Spoiled(how="huge number", content=_set(text, name, value), deserved=deserved)


def not_a_number(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text, COUNTS)
    value = chance.choice(["many", "2.5", "٣", "-4", "0", "1_0", "12a", "'1 2'"])
    return Spoiled(how="no whole number", content=_set(text, name, value), deserved=rf"{name}=.*: must be ")


def no_choice(chance: random.Random, text: str) -> Spoiled:
    name, value = _pick(chance, text, CHOICES)
    return Spoiled(how="no such choice", content=_set(text, name, value[:-1] + "Z"), deserved=rf"{name}=.*: must be one of ")


def unknown_name(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text, (*COUNTS, *CHOICES))
    at = chance.randrange(1, len(name))
    spoiled = text.replace(f"export {name}=", f"export {name[:at]}Q{name[at:]}=")
    return Spoiled(how="misspelled name", content=spoiled.encode(), deserved="is not a variable of this kit; did you mean ")


def unexported(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text, (*COUNTS, *CHOICES))
    spoiled = text.replace(f"export {name}=", f"{name}=")
    return Spoiled(how="not exported", content=spoiled.encode(), deserved=f"{name}=.* set but not exported")


def unclosed_quote(chance: random.Random, text: str) -> Spoiled:
    name, value = _pick(chance, text, COUNTS)
    return Spoiled(how="unclosed quote", content=_set(text, name, f'"{value}'), deserved="mend the shell syntax")


def crlf(chance: random.Random, text: str) -> Spoiled:
    return Spoiled(how="Windows line ends", content=text.replace("\n", "\r\n").encode(), deserved=":1: a carriage return")


def merge_markers(chance: random.Random, text: str) -> Spoiled:
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    lines[at : at + 1] = ["<<<<<<< HEAD\n", lines[at], "=======\n", lines[at], ">>>>>>> theirs\n"]
    return Spoiled(how="merge markers", content="".join(lines).encode(), deserved=f":{at + 1}: a merge-conflict marker")


def nul_byte(chance: random.Random, text: str) -> Spoiled:
    at = chance.randrange(len(text))
    return Spoiled(how="NUL byte", content=(text[:at] + "\0" + text[at:]).encode(), deserved="a NUL byte")


def garbage(chance: random.Random, text: str) -> Spoiled:
    content = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 300)))
    return Spoiled(how="binary garbage", content=content + b"\xff\0", deserved="carriage return|NUL byte|not UTF-8|merge-conflict")


def no_utf8(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text)
    return Spoiled(how="no UTF-8", content=_set(text, name, "\xe9").replace("\xe9".encode(), b"\xe9"), deserved="not UTF-8")


def changed_letter(chance: random.Random, text: str) -> Spoiled:
    at = chance.randrange(len(text))
    letter = chance.choice("\n \t\"'`$(){}[]\\;&|#=*~!x0éA")
    return Spoiled(how="changed letter", content=(text[:at] + letter + text[at + chance.randrange(2) :]).encode())


def cut_short(chance: random.Random, text: str) -> Spoiled:
    return Spoiled(how="cut short", content=text[: chance.randrange(len(text))].encode())


def renamed(chance: random.Random, text: str) -> Spoiled:
    sizes = [2, 4, 2]
    at = chance.randrange(3)
    sizes[at] = chance.choice([number for number in (1, 2, 3, 4, 16, 10**12) if number != sizes[at]])
    name = f"config_TEST_{'x'.join(map(str, sizes))}.sh"
    deserved = f"the file's name says {'local batch ' if at == 2 else ''}{sizes[at]}"
    return Spoiled(how="renamed", name=name, content=text.encode(), deserved=deserved)


def other_name(chance: random.Random, text: str) -> Spoiled:
    name = chance.choice(ODD_NAMES)
    return Spoiled(how="another name", name=name, content=text.encode())


def extremes(chance: random.Random, text: str) -> Spoiled:
    """Set several options to values that are each within its own bounds, but at their ends or in no proportion to each other."""
    lines = []
    for spec in chance.sample([*job_options().values(), *workload_options("deepcam").values()], chance.randrange(1, 6)):
        ends = [*(spec.choices or ()), *(f"{end:g}" for end in (spec.minimum, spec.maximum) if end is not None)]
        if spec.kind in (int, float):
            ends += ["1", "2", "7", str(2**31), "9" * 18, "9" * 300] + (["1e-300", "1e300", "0.5"] if spec.kind is float else [])
        value = chance.choice(ends or EXTREMES.get(spec.variable, ["1", "x", "/", "a:b", "~"]))
        lines.append(f"export {spec.variable}={shlex.quote(value)}\n")
    return Spoiled(how="extremes", content=(text + "".join(lines)).encode())


EXTREMES = {
    "WALLTIME": ["1", "366-00:00:00", "527040", "00:01:00", "00:01:01"],
    "STORMBENCH_LIMITS": ["regular:nodes=0,gpus=0,minutes=0", "regular:min_nodes=" + "9" * 4000, "x:nodes=1"],
    "STORMBENCH_RANK_CORES": ["0 1 2 3", "0-999999999999 5 6 7", "9" * 4000 + " 0 1 2", "0,0,0"],
    "STORMBENCH_MOUNTS": ["/:/", "./x", "/nonexistent:/a:ro", "/" + "a" * 300 + ":/b", ":"],
    "STORMBENCH_HOSTS": ["*", "[", "*" * 40 + "x", "localhost"],
    "LOGDIR": ["/dev/null/x", "/", "a" * 5000], "DATADIR": ["/dev/null", "a/" * 3000], "CONT": ["x.sqsh", "/x.sif", "docker://x", "-v"],
    "LR_SCHEDULE": ["multistep", "type=multistep,milestones=1:2"], "LR_MILESTONES": ["1:2", "9" * 300, "2:1"],
    "OPTIMIZER_BETAS": ["0 0", "0.9"], "STORMBENCH_CHANNELS": ["0 1 2 10", "0 0", "15"],
}  # fmt: skip


def ends_itself(chance: random.Random, text: str) -> Spoiled:
    ending = chance.choice(["exit 0", "exit 3", "exec true", "logout", "kill -9 $$"])
    return Spoiled(how="exits", content=f"{text}{ending}\n".encode(), deserved=f"{len(text.splitlines()) + 1}: ")


def calls_program(chance: random.Random, text: str) -> Spoiled:
    program = chance.choice(["curl", "rm", "python3", "module", "nvidia-smi"])
    return Spoiled(how="calls a program", content=f"{text}{program} -x\n".encode(), deserved=f"calls {program}, which a config may not")


def fails(chance: random.Random, text: str) -> Spoiled:
    command = chance.choice(["false", 'export X="$NOT_SET_ANYWHERE"', "cd /nonexistent/folder", "source /nonexistent/file.sh"])
    deserved = "under set -euo pipefail|mend|unbound variable: the check's shell"
    return Spoiled(how="a command fails", content=f"{text}{command}\n".encode(), deserved=deserved)


def array(chance: random.Random, text: str) -> Spoiled:
    name, value = _pick(chance, text, COUNTS)
    return Spoiled(how="an array", content=_set(text, name, f"({value} {value})"), deserved=f"{name} is an array, set but not exported")


def foreign_blank(chance: random.Random, text: str) -> Spoiled:
    name, value = _pick(chance, text, COUNTS)
    blank = chance.choice("\u00a0\u2003\u3000")
    return Spoiled(how="foreign blank", content=_set(text, name, value + blank), deserved=f"{name}=.*: must be .* no blank to a shell")


def byte_order_mark(chance: random.Random, text: str) -> Spoiled:
    return Spoiled(how="byte-order mark", content=b"\xef\xbb\xbf" + text.encode(), deserved=":1: a byte-order mark")


def reaches_out(chance: random.Random, text: str) -> Spoiled:
    command = chance.choice(["kill -0 $PPID", "history -w made", "fc -s", "suspend -f", "coproc cat", "eval :", "hostname x"])
    return Spoiled(how="reaches out", content=f"{text}{command}\n".encode(), deserved=f":{len(text.splitlines()) + 1}: calls ")


def writes(chance: random.Random, text: str) -> Spoiled:
    command = chance.choice(["{ :; }", "[[ 1 ]]", "(( 1 ))", "echo \"x'\"", "for i in 1; do :; done", "x=$(:", ":"])
    end = ")" if "$(" in command else ""
    return Spoiled(
        how="writes a file", content=f"{text}{command} >|made{end}\n".encode(), deserved=f":{len(text.splitlines()) + 1}: .* writes a file"
    )


def wrong_arithmetic(chance: random.Random, text: str) -> Spoiled:
    name, _ = _pick(chance, text, COUNTS)
    value = chance.choice(["$((1/0))", "$((08+1))", "$((2**-1))"])
    return Spoiled(how="wrong arithmetic", content=_set(text, name, value), deserved="division by 0|too great for|exponent less")


MUTATORS: tuple[Mutator, ...] = (
    drop_line, duplicate_line, random_value, other_number, huge_number, not_a_number, no_choice, unknown_name, unexported,
    unclosed_quote, crlf, merge_markers, nul_byte, garbage, no_utf8, changed_letter, cut_short, renamed, other_name, extremes,
    ends_itself, calls_program, fails, array, foreign_blank, byte_order_mark, reaches_out, writes, wrong_arithmetic,
)  # fmt: skip


def spoil(chance: random.Random, text: str) -> Spoiled:
    """Spoil a config once, or several times over, after which no certain verdict is deserved."""
    first = chance.choice(MUTATORS)(chance, text)
    if chance.randrange(4):
        return first
    how, content = first.how, first.content
    for _ in range(chance.randrange(1, 4)):
        try:
            then = chance.choice(MUTATORS)(chance, content.decode())
        except (UnicodeDecodeError, IndexError, ValueError):
            # nothing is left that could be spoiled in this way
            continue
        how, content = f"{how}, {then.how}", then.content
    return Spoiled(how=how, content=content, name=first.name)
