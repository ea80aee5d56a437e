"""`python -m stormbench` is the same program as `stormbench`."""

from stormbench.cli import entry

if __name__ == "__main__":
    entry()
