"""What a bundle's evidence and its cooperation are worth on rows that it has not seen."""
