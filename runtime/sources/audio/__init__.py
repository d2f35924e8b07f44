"""Sound as a live source: ALSA devices and files, cut into windows."""
