"""An hour of video, and cameras that are lost and come back."""
