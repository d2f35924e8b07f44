"""Adaptation: pairs that workers keep, and an edge model that learns from them."""
