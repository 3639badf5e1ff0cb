"""Keep nights where experiments are kept: an MLflow server, and TensorBoard's files."""
