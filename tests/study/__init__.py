"""The study: what evidence and cooperation are worth on real tasks, as tables."""
