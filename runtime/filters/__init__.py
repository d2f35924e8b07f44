"""What is dropped or answered before the model runs."""
