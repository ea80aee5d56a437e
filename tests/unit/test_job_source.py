"""Sourcing a config: it may set variables and little else, and what it sets is told with the line that set it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from stormbench.core.errors import UserError
from stormbench.job.confine import confinement
from stormbench.job.findings import ERROR, WARNING
from stormbench.job.shelltext import mentions
from stormbench.job.source import Sourced, source_config


def sourced(folder: Path, text: str) -> dict[str, str]:
    """Return what a config exports, with the folder it stands in as FOLDER."""
    return of(folder, f"FOLDER={folder}\n{text}\n").exported


def of(folder: Path, text: str) -> Sourced:
    path = folder / "config_TEST_1x1x1.sh"
    path.write_text(text)
    return source_config(path, {}, {})


@pytest.mark.parametrize(
    "line",
    [
        '/bin/rm -f "$FOLDER/kept"', '"/bin/rm" -f "$FOLDER/kept"', 'A=1 /bin/rm -f "$FOLDER/kept"',
        'RM=/bin/rm; $RM -f "$FOLDER/kept"', 'command /bin/rm -f "$FOLDER/kept"', 'command -p rm -f "$FOLDER/kept"',
        'hash -p /bin/rm cat; cat -f "$FOLDER/kept"', 'PATH=/bin; rm -f "$FOLDER/kept"', 'PATH=/bin rm -f "$FOLDER/kept"',
        'trap - DEBUG; /bin/rm -f "$FOLDER/kept"', 'exec /bin/rm -f "$FOLDER/kept"', 'export A=$(/bin/rm -f "$FOLDER/kept")',
        'eval "/bin/rm -f $FOLDER/kept"', 'command_not_found_handle() { :; }; /bin/rm -f "$FOLDER/kept"', ': >"$FOLDER/kept"',
        'echo x >|"$FOLDER/kept"', 'sort -o "$FOLDER/kept" /dev/null', 'sort -uo"$FOLDER/kept" /dev/null', "sed -i s/p/q/ $FOLDER/kept",
        'echo | sed "w $FOLDER/kept"', 'echo | sed "1e rm $FOLDER/kept"', 'echo x >>"$FOLDER/kept"', '{ echo x; } >"$FOLDER/kept"',
        'echo "a > b" >"$FOLDER/kept"', '{ :; } >|"$FOLDER/kept"', '[[ 1 ]] >|"$FOLDER/kept"', '(( 1 )) >|"$FOLDER/kept"',
        'for i in 1; do :; done >|"$FOLDER/kept"', 'while false; do :; done >|"$FOLDER/kept"', 'f() { :; } >|"$FOLDER/kept"; f',
        '( : ) &>"$FOLDER/kept"', 'history -w "$FOLDER/kept"', 'history -a "$FOLDER/kept"', """echo "x'" >|"$FOLDER/kept\"""",
        'set +C; { :; } >"$FOLDER/kept"', 'set +C', 'set -e +C', 'set +o noclobber', 'set +T', 'set -m', 'shopt -uo noclobber',
        'x=${x:-$(: >|"$FOLDER/kept")}', 'x=`: >|"$FOLDER/kept"`', 'cat < <(: >|"$FOLDER/kept")', 'cat <<E >|"$FOLDER/kept"\nx\nE',
        'exec 3<>"$FOLDER/kept"', 'mapfile -C "/bin/rm $FOLDER/kept" x <<<y', 'source <(echo ": >|$FOLDER/kept")',
        'source /dev/stdin <<< ": >|$FOLDER/kept"', 'alias x=y', 'shopt -s expand_aliases', 'exit() { :; }', 'function printf { :; }',
        'kill $PPID', 'kill -STOP $PPID', 'if kill -9 -1; then :; fi', '\\kill 1', 'command kill 1', 'builtin kill 1', 'A=1 kill 1',
        'suspend -f', 'fc -s', 'coproc cat', 'coproc { :; }', 'disown -a', 'bind -x a:b', 'hostname evil', 'hostname -F /etc/hostname',
        'x=$(date -us now)', 'x=$(date -Rus now)', 'x=$(date --set now)', 'x=$(date 11252026)',
        'sort --compress-program=/bin/rm /dev/null', 'eval ": >|$FOLDER/kept"',
    ],
)  # fmt: skip
def test_a_config_that_would_harm_a_file_is_refused_and_harms_none(tmp_path: Path, line: str) -> None:
    kept = tmp_path / "kept"
    kept.write_text("precious")
    with pytest.raises(UserError, match=r"config_TEST_1x1x1\.sh:2: "):
        sourced(tmp_path, line)
    assert kept.read_text() == "precious"


def test_a_refused_redirection_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="writes a file"):
        sourced(tmp_path, 'echo x >"$FOLDER/made"')
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('export OMP_A="a -> /b"', "a -> /b"), ("export OMP_A=/a/b", "/a/b"), ('X="a /b" Y=1; export OMP_A="$X$Y"', "a /b1"),
        ("export OMP_A=$(echo /a/b.sh | sed 's/\\.sh$//' 2>/dev/null)", "/a/b"), ("((X = 4 / 2)); export OMP_A=$X", "2"),
        ("command -v nosuch >/dev/null || export OMP_A=1", "1"), ("for x in /a /b; do export OMP_A=$x; done", "/b"),
        ("names=(/a /b); export OMP_A=${names[1]}", "/b"), ("f() { export OMP_A=$1; }; f /x", "/x"),
        ("[[ abc =~ b ]] && export OMP_A=${BASH_REMATCH[0]}", "b"), ("export OMP_A=$(basename $(dirname /x/y/z))", "y"),
        ("echo words; echo more >&2; export OMP_A=1", "1"),
        ('export OMP_A="$(case x in x) echo "b > c" ;; esac)"', "b > c"),
        ("export OMP_A=$(date -u -d 20240101 +%Y)", "2024"),
        ("export OMP_A=$(date -u -d 2024-01-01 -Iseconds)", "2024-01-01T00:00:00+00:00"),
        ("(( 2 > 1 )) && [[ b > a ]] && export OMP_A=$((1 > 0))", "1"), ("export OMP_A=$(cat <<'E'\na > b\nE\n)", "a > b"),
        ("set +e; false; set -e; export OMP_A=1", "1"), ("shopt -s nullglob; export OMP_A=1", "1"),
        ("readonly name=x; export OMP_A=1", "1"),
        ("x=$(hostname; hostname -s); export OMP_A=1", "1"), ("set +o pipefail; set -o pipefail; export OMP_A=1", "1"),
    ],
)  # fmt: skip
def test_what_only_sets_variables_is_allowed(tmp_path: Path, line: str, value: str) -> None:
    assert sourced(tmp_path, line)["OMP_A"] == value


def test_the_line_is_that_which_sets_a_variable_not_one_that_uses_it(tmp_path: Path) -> None:
    path = tmp_path / "config_TEST_1x1x1.sh"
    path.write_text(
        "export DGXNNODES=2 DGXNGPU=4\nexport WALLTIME=60\nMAX_THREADS=3\n"
        "export SBATCH_GPUS=$((10#$DGXNNODES * DGXNGPU))\nexport SBATCH_TIMELIMIT=$WALLTIME\n"
        '[[ $DGXNNODES == 2 && $DGXNGPU == 4 ]]\nexport OMP_X="of $WALLTIME and DGXNGPU"\nexport MAX_THREADS\n'
    )
    origin = source_config(path, {}, {}).origin
    lines = {name: int(origin[name].rpartition(":")[2]) for name in ("DGXNNODES", "DGXNGPU", "WALLTIME", "MAX_THREADS")}
    assert lines == {"DGXNNODES": 1, "DGXNGPU": 1, "WALLTIME": 2, "MAX_THREADS": 8}


def test_the_kernel_keeps_what_the_checks_might_miss(tmp_path: Path) -> None:
    confine = confinement()
    if confine is None:
        pytest.skip("this kernel has no Landlock")
    kept = tmp_path / "kept"
    kept.write_text("precious")
    script = f"{{ :; }} >|'{kept}'; kill -0 $PPID; echo $?; rm '{kept}'; mkdir '{tmp_path}/new'; echo x >/dev/null && echo null"
    done = subprocess.run(["bash", "-c", script], preexec_fn=confine, capture_output=True, text=True, check=False)
    assert kept.read_text() == "precious"
    assert not (tmp_path / "new").exists()
    assert done.stdout.endswith("null\n")


@pytest.mark.parametrize("line", ["tail -f /dev/null &", "( while :; do :; done ) &", "(tail -f /dev/null & ) &"])
def test_a_process_left_behind_is_told_at_once(tmp_path: Path, line: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"config_TEST_1x1x1\.sh:2: leaves a process behind"):
        of(tmp_path, f"export A=1\n{line}\nexport B=2\n")
    assert time.monotonic() - start < 3


def test_a_job_that_is_waited_for_is_none_left_behind(tmp_path: Path) -> None:
    assert of(tmp_path, "cat /dev/null &\nwait\nexport A=1\n").exported == {"A": "1"}


@pytest.mark.parametrize("line", ["export A=(1 2)", "A=(1 2); export A", "declare -ax A=(1 2)"])
def test_an_array_is_not_exported(tmp_path: Path, line: str) -> None:
    found = of(tmp_path, f"{line}\n")
    assert (found.exported, found.unexported["A"], found.arrays["A"]) == ({}, "1", "1 2")
    assert found.origin["A"].endswith(":1")


@pytest.mark.parametrize(
    ("line", "text"),
    [("export A=$((1/0))", "division by 0"), ("export A=$((08+1)) || true", "value too great for base"),
     ("[ x -ge 1 ] || export A=1", "integer expression expected")],
)  # fmt: skip
def test_an_error_of_bash_that_ends_nothing_is_told_with_its_line(tmp_path: Path, line: str, text: str) -> None:
    (finding,) = of(tmp_path, f"# first\n{line}\necho a.sh: line 3: of its own >&2\n").findings
    assert finding.level == ERROR
    assert finding.where.endswith("config_TEST_1x1x1.sh:2")
    assert text in finding.text


@pytest.mark.parametrize("line", ["umask 077", "ulimit -s 100", "IFS=:"])
def test_what_no_job_would_see_is_worth_a_warning(tmp_path: Path, line: str) -> None:
    (finding,) = of(tmp_path, f"\n{line}\n").findings
    assert finding.level == WARNING
    assert finding.where.endswith(":2")


def test_no_name_is_swallowed(tmp_path: Path) -> None:
    names = ["HOME", "TMPDIR", "LANG", "SHELL", "STORMBENCH_X_", "name", "TERM"]
    assert set(of(tmp_path, "".join(f"export {name}=/x\n" for name in names)).exported) == set(names)


def test_an_unbound_variable_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r":1: SCRATCH: unbound variable: the check's shell has only documented names.*\$\{SCRATCH:-\}"):
        of(tmp_path, "export A=$SCRATCH/x\n")


@pytest.mark.parametrize(
    ("before", "why"),
    [(b"<<<<<<< HEAD\n", ":1: a merge-conflict marker"), (b"\xef\xbb\xbf", r":1: a byte-order mark \(BOM\).*run: sed -i '1s/\^"),
     (b"\r\n", ":1: a carriage return"), (b"{ :; } >|made\n", ":1: `>made` writes a file")],
)  # fmt: skip
@pytest.mark.parametrize("how", ['source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/x.sh"', "P=systems; source ./$P/x.sh"])
def test_a_sourced_file_is_held_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes, why: str, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("systems").mkdir()
    Path("systems/x.sh").write_bytes(before + b"export A=1\n")
    Path("c.sh").write_text(f"{how}\n")
    if "P=" in how and before.startswith(b"{"):
        # only bash knows the name, and the kernel refuses what it may not write
        if confinement() is None:
            pytest.skip("this kernel has no Landlock")
        why = ":1: writes a file"
    with pytest.raises(UserError, match=rf"systems/x\.sh{why}"):
        source_config("c.sh", {}, {})
    assert not Path("made").exists()


def test_text_is_read_as_bash_reads_it() -> None:
    told = [(one.kind, one.line, one.what) for one in mentions("X='a > b' # c > d\nif :; then\n  : \\> e > \"f\" 2>&1\nfi >/dev/null\n")]
    assert told == [("writes", 3, '"f"')]
    assert mentions('echo "not closed > here') == []
    assert [one.what for one in mentions("case $x in *'>'*) : >a ;; b) : >c ;; esac; : >d")] == ["a", "c", "d"]
    assert [one.kind for one in mentions("$(" * 9000)] == ["nests"]
