"""The device: configuration, sources, filters, backends, policy, loop, sinks, commands."""
