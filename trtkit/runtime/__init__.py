"""Running models: sessions, what this machine is, which artifact of a bundle suits it, and how fast it is."""

from trtkit.runtime.bench import BenchResult, Paired, bench, paired, random_feeds
from trtkit.runtime.ort import OrtSession
from trtkit.runtime.predict import Prediction, predict
from trtkit.runtime.probe import probe_device
from trtkit.runtime.select import BundleSession, Choice, open
from trtkit.runtime.session import Session

__all__ = ["BenchResult", "BundleSession", "Choice", "OrtSession", "Paired", "Prediction", "Session", "bench", "open",
           "paired", "predict", "probe_device", "random_feeds"]
