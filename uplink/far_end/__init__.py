"""The service that answers what devices ask."""
