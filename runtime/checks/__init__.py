"""What `hedge check` looks at before a device runs: one file per thing checked."""
