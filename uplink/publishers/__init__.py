"""What else goes over the device's one connection."""
