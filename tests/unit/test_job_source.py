"""Sourcing a config: it may set variables and little else, and what it sets is told with the line that set it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stormbench.core.errors import UserError
from stormbench.job.source import source_config


def sourced(folder: Path, text: str) -> dict[str, str]:
    """Return what a config exports, with the folder it stands in as FOLDER."""
    path = folder / "config_TEST_1x1x1.sh"
    path.write_text(f"FOLDER={folder}\n{text}\n")
    return source_config(path, {}, {}).exported


@pytest.mark.parametrize(
    "line",
    [
        '/bin/rm -f "$FOLDER/kept"', '"/bin/rm" -f "$FOLDER/kept"', 'A=1 /bin/rm -f "$FOLDER/kept"', 'RM=/bin/rm; $RM -f "$FOLDER/kept"',
        'command /bin/rm -f "$FOLDER/kept"', 'command -p rm -f "$FOLDER/kept"', 'hash -p /bin/rm cat; cat -f "$FOLDER/kept"',
        'PATH=/bin; rm -f "$FOLDER/kept"', 'PATH=/bin rm -f "$FOLDER/kept"', 'trap - DEBUG; /bin/rm -f "$FOLDER/kept"',
        'exec /bin/rm -f "$FOLDER/kept"', 'export A=$(/bin/rm -f "$FOLDER/kept")', 'eval "/bin/rm -f $FOLDER/kept"',
        'command_not_found_handle() { :; }; /bin/rm -f "$FOLDER/kept"', ': >"$FOLDER/kept"', 'echo x >|"$FOLDER/kept"',
        'sort -o "$FOLDER/kept" /dev/null', 'sort -uo"$FOLDER/kept" /dev/null', "sed -i s/p/q/ $FOLDER/kept", 'echo | sed "w $FOLDER/kept"',
        'echo | sed "1e rm $FOLDER/kept"', 'echo x >>"$FOLDER/kept"', '{ echo x; } >"$FOLDER/kept"', 'echo "a > b" >"$FOLDER/kept"',
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
