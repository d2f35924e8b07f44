"""Pictures of cameras and films."""
