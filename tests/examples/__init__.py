"""The worked examples, each run whole: a real source, a device, a broker and a worker."""
