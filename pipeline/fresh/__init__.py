"""Count earlier rows as fresh statistics, which kernels read beside the frozen base."""
