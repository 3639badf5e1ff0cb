"""Information-aware adaptive kernels: one kernel, a bank of them, their noise and their loss."""
