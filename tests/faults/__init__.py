"""Harnesses that run the outbox and the whole device through thousands of faults."""
