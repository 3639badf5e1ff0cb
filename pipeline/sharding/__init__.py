"""The only room that talks to torchrec.distributed."""
