"""What every test shares: one thread, few, repeatable Hypothesis examples, long files first."""

import os
import sys
from collections import Counter

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shared cores make single examples slow now and then: no deadline. `--hypothesis-profile=night`
# looks further.
settings.register_profile("day", deadline=None, derandomize=True)
settings.register_profile("night", deadline=None, max_examples=1000)
settings.load_profile("day")


def pytest_collection_modifyitems(items):
    """Put files whose tests may take long first.

    `make test-long` gives each of its workers a file at a time: a long file that begins last would
    run alone. How long a file may take is what its tests say themselves, by their timeout.
    """
    longest, tests = Counter(), Counter()
    for item in items:
        timeout = item.get_closest_marker("timeout")
        longest[item.path] = max(longest[item.path], timeout.args[0] if timeout else 0)
        tests[item.path] += 1
    items.sort(key=lambda item: (-longest[item.path], -tests[item.path]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Let what a test draws without a seed not depend on the tests before it in its process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
