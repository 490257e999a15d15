from __future__ import annotations

import pytest

from trtkit.findings import Finding, Severity


@pytest.mark.parametrize(("names", "where"), [
    ((), ""), (("a",), "a"), (("a", "b", "c"), "a, b, c"), (("a", "b", "c", "d", "e"), "a, b, c and 2 more")])
def test_where_shows_the_first_names(names: tuple[str, ...], where: str) -> None:
    assert Finding(Severity.ERROR, names, "what", "do").where == where
