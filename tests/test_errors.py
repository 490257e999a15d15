from __future__ import annotations

import inspect
import re

import pytest

from trtkit import errors
from trtkit.errors import TrtkitError

PARENTS = {"MissingDependencyError": ImportError, "SpecError": ValueError, "PassError": errors.GraphError,
           "EngineMismatchError": errors.BundleError}


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_ours_and_what_a_caller_expects(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, TrtkitError)
    assert issubclass(kind, PARENTS.get(name, TrtkitError))


def test_the_tree_in_the_docstring_names_exactly_the_errors_that_exist() -> None:
    drawn = set(re.findall(r"\b([A-Z]\w*Error)\b", errors.__doc__ or "")) - {"ImportError", "ValueError"}
    defined = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert drawn == defined == set(errors.__all__)
