"""The report of `hedge evidence report` as one page that needs nothing else."""
