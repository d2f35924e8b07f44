"""Strangers' bytes by the million: what reads them refuses them, and nothing else happens."""
