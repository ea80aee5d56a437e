"""The job script of every shipped config, as it was last reviewed. `make golden` renews them."""
