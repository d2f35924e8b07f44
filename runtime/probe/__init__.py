"""Models tried in a process of their own, so that one that crashes crashes nothing else."""
