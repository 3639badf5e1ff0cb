"""Nights that the tests of this folder render."""

from iak.schemas.nightly import NightlySpec


def nights(**settings):
    """Return nights whose paths outlive a pod."""
    defaults = {
        "name": "Shop_EU",
        "catalog": "planted",
        "data_root": "s3://logs/shop",
        "base": "/iak/base",
        "registry": "s3://models/shop",
        "nights": "/iak/nights",
        "schedule": {"time_zone": "Europe/Berlin", "deadline": "05:30"},
        "workers": {"workers": 3},
        "deploy": {"volume_claim": "iak-data", "secret": "iak-keys"},
    }
    return NightlySpec(**defaults | settings)
