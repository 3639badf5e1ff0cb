"""The base, from training to work: pre-trained, checkpointed, published, opened, frozen."""
