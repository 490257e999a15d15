"""Print what is installed beside this Python as pip constraints: one exact pin a line, sorted.

A local version such as +cpu is left out: it names one build of the same release. All pins but torch's hold from the
running Python's version on, because older ones need older releases of several packages; there pip chooses.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions

HEADER = "# Exact versions that the tests pass with, renewed by: make constraints"
LEFT_OUT = {"trtkit", "pip", "setuptools", "wheel"}


def main() -> None:
    marker = f'python_version >= "{sys.version_info[0]}.{sys.version_info[1]}"'
    pins = {re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found.version.partition("+")[0]
            for found in distributions()}
    print(HEADER)
    for name, version in sorted(pins.items()):
        if name not in LEFT_OUT:
            print(f"{name}=={version}" if name == "torch" else f"{name}=={version}; {marker}")


if __name__ == "__main__":
    main()
