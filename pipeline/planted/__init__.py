"""The planted log: synthetic rows whose true probabilities are known."""
