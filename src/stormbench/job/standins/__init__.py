"""Strict stand-ins for schedulers, launchers and container runtimes: first on PATH, they let a real job script run on a laptop.

They refuse what the real programs refuse, and start real local processes for what they accept. They stand in for no GPU.
"""

from stormbench.job.standins.plan import PROGRAMS, Plan, install

__all__ = ["PROGRAMS", "Plan", "install"]
