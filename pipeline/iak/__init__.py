"""Information-aware adaptive kernels: code, bank, adapters, loss."""
