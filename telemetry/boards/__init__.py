"""Board profiles: what a board is, how it is told from others, and what it can measure."""
