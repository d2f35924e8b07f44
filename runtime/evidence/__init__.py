"""Evidence for a classifier that has none: `hedge evidence fit`."""
