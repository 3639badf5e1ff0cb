"""Store nights in experiment trackers: an MLflow server, and TensorBoard's files."""
