"""The gate of one stream: where it stands, what moves it, and what is audited behind it."""
