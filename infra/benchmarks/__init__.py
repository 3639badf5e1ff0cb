"""The project's evidence: benchmarks of this project itself, their records, their pages."""
