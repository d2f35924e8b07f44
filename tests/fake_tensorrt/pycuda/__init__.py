"""The fake of pycuda; see fake_gpu."""
