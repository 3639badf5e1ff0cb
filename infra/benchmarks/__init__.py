"""The project's evidence: benchmarks of the project itself, their records, their pages."""
