"""What the base makes of rows: standardised, buffered for a run, cached on disk."""
