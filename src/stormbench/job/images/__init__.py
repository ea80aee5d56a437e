"""`stormbench images`: container images built, tried, exported and recorded by whatever engine a machine has."""
