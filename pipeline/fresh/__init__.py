"""Fresh statistics: counts of earlier rows, which kernels read beside the frozen base."""
