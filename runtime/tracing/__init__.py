"""Traces: where the time of one escalated sample went, from its capture to the final outcome."""
