"""Tests under a real Slurm, brought up on this machine by `slurm.py`."""
