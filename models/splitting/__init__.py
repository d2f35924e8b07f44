"""Models cut in two: where a graph can be cut, what lies before and behind, and both halves."""
