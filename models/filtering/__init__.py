"""Learned input filters: what is redundant, where a filter has to stand, and what that is worth."""
