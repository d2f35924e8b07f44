"""Power sensors: one file per kind behind one Protocol."""
