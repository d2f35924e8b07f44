"""A bundle calibrated anew, from rows that its training has not seen."""
