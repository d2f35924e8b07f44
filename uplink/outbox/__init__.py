"""Where asks wait: the outbox in memory, and the one on disk over its record log."""
