"""What the variants of a bundle cost on this board, and how right they are."""
