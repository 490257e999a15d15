"""What every Session promises, run on each implementation: y = 2 x and total = sum(y)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trtkit.bundle import Artifact, BundleManifest, write_bundle
from trtkit.device import Device
from trtkit.errors import SpecError
from trtkit.precision import Precision
from trtkit.runtime import OrtSession, Session
from trtkit.runtime import open as open_session
from trtkit.tensors import TensorSpec

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def _bundle_session(model: bytes, folder: Path, device: Device) -> Session:
    manifest = BundleManifest("double", (TensorSpec("x", "float32", ("batch", 3)),),
                              (TensorSpec("y", "float32", ("batch", 3)),),
                              (Artifact("m.onnx", "x86-vnni", Precision.FP32, "onnx"),))
    write_bundle(folder / "m.trtkit", manifest, {"m.onnx": model})
    return open_session(folder / "m.trtkit", machine=device)


def _tensorrt_session(model: bytes) -> Session:
    from trtkit.build import BuildOptions, build_plan
    from trtkit.runtime.trt import TrtSession
    from trtkit.tensors import ShapeProfile

    profile = ShapeProfile({"x": (1, 3)}, {"x": (2, 3)}, {"x": (4, 3)})
    return TrtSession(build_plan(model, BuildOptions(profiles=(profile,))).data)


@pytest.fixture(params=["fake", "ort", "bundle", pytest.param("tensorrt", marks=pytest.mark.gpu)])
def session(request: pytest.FixtureRequest, double_model: bytes, tmp_path: Path, pc: Device,
            fake_session: Callable[[], Session]) -> Iterator[Session]:
    made: Session = {
        "fake": fake_session,
        "ort": lambda: OrtSession(double_model, threads=1),
        "bundle": lambda: _bundle_session(double_model, tmp_path, pc),
        "tensorrt": lambda: _tensorrt_session(double_model),
    }[request.param]()
    yield made
    made.close()


def test_session_describes_itself(session: Session) -> None:
    assert isinstance(session, Session)
    (x,) = session.inputs
    assert (x.name, x.dtype, len(x.shape), x.shape[1]) == ("x", "float32", 2, 3)
    assert isinstance(x.shape[0], str)
    assert [spec.name for spec in session.outputs] == ["y", "total"]
    assert session.backend


def test_run_returns_every_output_by_name(session: Session) -> None:
    outputs = session.run({"x": X})
    assert list(outputs) == ["y", "total"]
    np.testing.assert_allclose(outputs["y"], 2 * X)
    np.testing.assert_allclose(outputs["total"], [[6], [24]])
    assert outputs["y"].dtype == np.float32


def test_run_accepts_any_batch_size_and_strided_arrays(session: Session) -> None:
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    for feed in (X[:1], wide[:, ::2], wide[::-1, 3:], np.asfortranarray(wide[:, :3])):
        np.testing.assert_allclose(session.run({"x": feed})["y"], 2 * feed)


def test_outputs_belong_to_the_caller(session: Session) -> None:
    first = session.run({"x": X})
    kept = first["y"].copy()
    session.run({"x": X + 1})
    np.testing.assert_array_equal(first["y"], kept)
    first["y"][:] = 0
    np.testing.assert_allclose(session.run({"x": X})["y"], kept)


def test_outputs_outlive_the_session(session: Session) -> None:
    outputs = session.run({"x": X})
    session.close()
    np.testing.assert_allclose(outputs["y"], 2 * X)


def test_run_does_not_write_into_its_feeds(session: Session) -> None:
    feed = X.copy()
    feed.flags.writeable = False
    session.run({"x": feed})
    np.testing.assert_array_equal(feed, X)


@pytest.mark.parametrize(("feeds", "says"), [
    ({}, "input 'x' is missing"),
    ({"z": X}, "'z' is not an input"),
    ({"x": X, "z": X}, "'z' is not an input"),
    ({"x": X.astype(np.float64)}, "dtype float64, not float32"),
    ({"x": X[0]}, "rank 1"),
    ({"x": X[:, :2]}, "size 2 in dimension 1"),
    ({"x": X.tolist()}, "is a list"),
], ids=["none", "other", "more", "dtype", "rank", "size", "list"])
def test_run_refuses_feeds_that_do_not_fit(session: Session, feeds: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        session.run(feeds)
    np.testing.assert_allclose(session.run({"x": X})["y"], 2 * X)


def test_run_into_fills_the_arrays_of_the_caller(session: Session) -> None:
    y, total = np.full((2, 3), -1, np.float32), np.full((2, 1), -1, np.float32)
    session.run_into({"x": X}, {"y": y, "total": total})
    np.testing.assert_allclose(y, 2 * X)
    np.testing.assert_allclose(total, [[6], [24]])


def _outputs(**change: np.ndarray) -> dict[str, np.ndarray]:
    return {"y": np.zeros((2, 3), np.float32), "total": np.zeros((2, 1), np.float32), **change}


def _read_only() -> np.ndarray:
    array = np.zeros((2, 3), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("outputs", [
    {"y": np.zeros((2, 3), np.float32)},
    _outputs(more=np.zeros(1)),
    _outputs(y=np.zeros((2, 3), np.float16)),
    _outputs(y=np.zeros((3, 3), np.float32), total=np.zeros((3, 1), np.float32)),
    _outputs(y=np.zeros((3, 2), np.float32).T),
    _outputs(y=_read_only()),
], ids=["missing", "unknown", "dtype", "batch", "strided", "read-only"])
def test_run_into_refuses_arrays_that_do_not_fit(session: Session, outputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(SpecError):
        session.run_into({"x": X}, outputs)


def test_run_works_from_several_threads(session: Session) -> None:
    feeds = [np.full((2, 3), value, np.float32) for value in range(32)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda feed: session.run({"x": feed})["y"], feeds))
    for feed, result in zip(feeds, results):
        np.testing.assert_allclose(result, 2 * feed)


def test_closed_session_refuses_to_run(session: Session) -> None:
    session.close()
    session.close()
    with pytest.raises(SpecError, match="closed"):
        session.run({"x": X})
    with pytest.raises(SpecError, match="closed"):
        session.run_into({"x": X}, _outputs())
