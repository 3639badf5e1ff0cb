"""What every test shares: one thread, and few, repeatable Hypothesis examples."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shared cores make single examples slow now and then: no deadline. `--hypothesis-profile=night`
# looks further.
settings.register_profile("day", deadline=None, derandomize=True)
settings.register_profile("night", deadline=None, max_examples=1000)
settings.load_profile("day")
