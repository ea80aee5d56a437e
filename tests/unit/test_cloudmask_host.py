"""TensorFlow is imported without what Keras only has for plots and data frames, and these can be imported afterwards."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import clean_environment

pytest.importorskip("tensorflow")

STARTS = """
import json, sys
from stormbench.cloudmask import host
from stormbench.cloudmask.config import TrainConfig
from stormbench.core.launch import detect

host.prepare(TrainConfig(cpu_only=True), detect({}))
hidden = [name for name in host.UNUSED_BY_US if name in sys.modules]
import matplotlib, pandas, tensorflow as tf
network = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1)])
print(json.dumps({"hidden": hidden, "pandas": len(pandas.DataFrame({"a": [1, 2]})), "shape": list(network(tf.ones((3, 2))).shape)}))
"""


def test_what_keras_has_for_plots_and_frames_stays_out_until_somebody_asks_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", STARTS], capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"hidden": [], "pandas": 2, "shape": [3, 1]}
