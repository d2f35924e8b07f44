"""`hedge run --dry`: what the streams see, and what would become of it; nothing leaves."""
