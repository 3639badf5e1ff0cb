"""Place, shard and freeze tables over workers. Only here torchrec.distributed is imported."""
