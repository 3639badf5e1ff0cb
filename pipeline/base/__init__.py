"""Pre-train a base, publish it or adopt one, open it, and freeze it for other jobs."""
