"""Build a model of TorchEasyRec from its `pipeline.config`, without importing TorchEasyRec."""
