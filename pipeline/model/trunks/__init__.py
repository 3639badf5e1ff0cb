"""Define the trunks of a base, one in each file. All have the same methods."""
