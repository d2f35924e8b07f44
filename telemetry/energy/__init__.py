"""Energy: power integrated over time, and shared out to stages and routes."""
