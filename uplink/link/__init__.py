"""The connection to a broker, and what it may cost."""
