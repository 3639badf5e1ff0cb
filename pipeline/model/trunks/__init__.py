"""Trunks of the base, one in each file. All have the same methods."""
