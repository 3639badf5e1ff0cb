"""Define the base as a model: tables, trunk, heads, loss, and the proof that it is frozen."""
