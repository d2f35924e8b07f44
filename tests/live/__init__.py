"""A device with eight live sources, each of which goes away and comes back."""
