"""Host side: judges run folders; reads nothing else."""
