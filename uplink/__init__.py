"""How samples leave the device and answers return; and the worker that answers them."""
