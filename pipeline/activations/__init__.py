"""The frozen base's output for rows: standardised, buffered for a run, cached on disk."""
