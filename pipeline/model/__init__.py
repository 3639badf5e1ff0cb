"""The base: tables, trunk, heads, and the proof that it is frozen."""
