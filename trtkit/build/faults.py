"""A failing TensorRT call -> a BuildError with TensorRT's own words and the advice for them."""

from __future__ import annotations

from trtkit.build.flavour import Flavour
from trtkit.build.hints import hint_for
from trtkit.errors import BuildError
from trtkit.runtime.trt_log import TrtLog

__all__ = ["Watch", "build_error"]


def build_error(flavour: Flavour, what: str, said: str) -> BuildError:
    """Return the error for `what` failed, with what TensorRT `said` and the hints that match it."""
    advice = hint_for(said, rtx=flavour.is_rtx)
    return BuildError(f"{flavour.title}: {what}: {said}" + (f". {advice}" if advice else ""))


class Watch:
    """Turns silent failures into errors: many TensorRT setters only log when they refuse.

    Args:
        flavour: The imported TensorRT.
        log: Its captured log.
    """

    def __init__(self, flavour: Flavour, log: TrtLog) -> None:
        self.flavour = flavour
        self.log = log
        self._mark = log.count

    def step(self) -> None:
        """Forget what was logged so far: a new step begins."""
        self._mark = self.log.count

    def warn(self, text: str) -> None:
        """Put a warning of our own beside those of TensorRT."""
        self.log.add("WARNING", text)

    def check(self, what: str, ok: object = True) -> None:
        """Return when `ok` is true and nothing was logged as an error since `step`; then begin the next step.

        Raises:
            BuildError: Otherwise, with the errors logged in this step.
        """
        self.check_result(what, ok and not self.log.errors(self._mark))

    def check_result(self, what: str, ok: object) -> None:
        """Do as `check`, but let the result alone decide: some calls log errors on the way to success.

        Such are registering plugins (one is there already) and building (a tactic was tried in vain).
        """
        if not ok:
            raise build_error(self.flavour, what, self.log.tail(self._mark))
        self.step()
