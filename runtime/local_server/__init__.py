"""What a device and a worker tell over HTTP: to probes, to Prometheus and to `hedge top`."""
