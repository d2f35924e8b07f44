"""Float variants made int8, and whether their evidence survives it."""
