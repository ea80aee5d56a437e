#!/usr/bin/env python3
"""DeepCAM's HDF5 files as numpy files, under the path and with the options that its instructions name; mpirun shares the work out."""

import sys

from stormbench.cli import entry

sys.argv[1:1] = ["deepcam", "convert"]
sys.exit(entry())
