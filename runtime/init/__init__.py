"""`hedge init`: what this device has, and a configuration for it that explains itself."""
