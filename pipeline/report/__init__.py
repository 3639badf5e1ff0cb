"""Report on nights and evaluations: HTML pages, Prometheus metrics, and a line for chat."""
