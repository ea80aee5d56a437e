"""A job keeps what is known of its image: image.json from beside it goes into the run folder before the ranks start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_lsf_pbs import Site
from tests.e2e.test_trial_loop import submitted

WORKLOAD = """\
#!/bin/sh
[ "$1 $2" != "deepcam train" ] || cat "$LOGDIR/$RUN_TAG/image.json" >>"$SEEN"
"""


@pytest.mark.parametrize("beside", [True, False])
def test_the_run_folder_gets_the_record_that_lies_beside_the_image(tmp_path: Path, beside: bool) -> None:
    (tmp_path / "data").mkdir()
    site = Site(tmp_path / "site", "pbs", tmp_path / "data")
    program = tmp_path / "workload" / "stormbench"
    program.parent.mkdir()
    program.write_text(WORKLOAD)
    program.chmod(0o755)
    images = tmp_path / "my images"
    images.mkdir()
    text = json.dumps({"format": 1, "images": {"deepcam.sif": {"sha256": "sha256:1"}}})
    if beside:
        (images / "image.json").write_text(text)
    seen = tmp_path / "seen"
    site.environ |= {"PATH": f"{program.parent}:{site.environ['PATH']}", "SEEN": str(seen), "CONT": str(images / "deepcam.sif")}
    code, printed = submitted(site)
    assert code == (0 if beside else 1), printed
    # each of the two ranks tells what it finds when it starts; without the file its cat fails
    assert seen.read_text() == (text * 2 if beside else "")
    assert (site.run / "image.json").exists() is beside
