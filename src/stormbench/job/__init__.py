"""The host side: shell configs become checked, typed jobs and the scripts that schedulers run. Imports no deep-learning library."""
