"""A registry of bundles: what every night published, and which of it serves each domain."""
