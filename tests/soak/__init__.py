"""A day of a device in minutes: millions of samples, with the far end away again and again."""
