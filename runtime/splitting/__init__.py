"""A model cut in two by `hedge bundle split`: where it can be cut, and both halves tried."""
