"""The registry: bundles of all nights, and pointers to the one that serves each domain."""
