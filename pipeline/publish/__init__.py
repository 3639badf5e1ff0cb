"""The gate, bundles, and the predictions of an evaluation."""
