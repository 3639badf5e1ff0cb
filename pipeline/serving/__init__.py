"""Predict rows with a base and its kernels: from files, from a stream."""
