"""Tables over workers: placed, sharded, frozen. Only this room uses torchrec.distributed."""
