import pytest

pytest.register_assert_rewrite("tests.model.facts", "tests.model.live")  # they assert for the tests
