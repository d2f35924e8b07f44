"""The outbox under faults: killed, torn, damaged, full, failing and without power."""
