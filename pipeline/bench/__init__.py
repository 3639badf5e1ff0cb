"""What `iak bench NAME` measures; one module a bench."""
