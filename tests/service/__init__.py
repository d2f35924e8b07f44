"""hedge as a service of a real systemd, in a container (`make service-test`)."""
