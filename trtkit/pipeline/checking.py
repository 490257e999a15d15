"""What is told before the first step runs: data that is missing, a work folder that cannot be made."""

from __future__ import annotations

from pathlib import Path

from trtkit.calib.sources.function import is_function
from trtkit.errors import CalibrationError, SpecError
from trtkit.recipe import Recipe

__all__ = ["check_data", "made_work_folder"]


def made_work_folder(recipe: Recipe) -> None:
    """Make the folder of intermediate files.

    Raises:
        SpecError: It cannot be made.
    """
    try:
        recipe.work.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise SpecError(f"Work folder '{recipe.work}' cannot be made: {err.strerror}. "
                        "Name another: work = 'FOLDER'") from err


def check_data(recipe: Recipe) -> None:
    """Raise CalibrationError when data is missing that only a later step would look for."""
    for name, section in (("calibrate", recipe.calibrate), ("evaluate", recipe.evaluate)):
        if section is not None and not is_function(section.data) and not Path(section.data).exists():
            raise CalibrationError(f"Data '{section.data}' of [{name}] does not exist. Name a folder of images, a "
                                   "file, or path.py:function")
