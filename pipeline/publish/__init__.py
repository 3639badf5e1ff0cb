"""Bundles and the gate that lets them out."""
