"""The way a failure takes out of the core."""

import pytest


def test_a_failed_check_arrives_with_its_sentence(core):
    with pytest.raises(RuntimeError, match="^found 3, wanted 4$"):
        core.fail("found 3, wanted 4")


def test_the_core_still_works_after_a_failure(core):
    for n in range(100):
        with pytest.raises(RuntimeError, match=str(n)):
            core.fail(f"failure {n}")
