"""The daemon and the worker as services of systemd: what is installed, and how they fare."""
