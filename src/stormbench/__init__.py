"""stormbench: two scientific deep-learning workloads, from raw data to a checked, comparable result."""

__version__ = "0.1.0"
