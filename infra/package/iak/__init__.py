"""Kernels per domain on a large frozen recommender, tuned every night."""
