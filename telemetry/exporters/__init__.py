"""What a device tells of its run: one `Snapshot`, in each of the forms that others read."""
