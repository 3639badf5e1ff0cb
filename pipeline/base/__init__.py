"""The frozen recommender's life: pre-trained, checkpointed, published, opened."""
