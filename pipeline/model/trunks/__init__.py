"""Trunks: one file each, one protocol."""
