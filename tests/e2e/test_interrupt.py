"""Ctrl-C in a real process: it ends soon with status 130, loses nothing, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

FEED = '''
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent

def feed():
    """Forty samples; while there is a file named slow, each after the eighth takes a while."""
    rng = np.random.default_rng(5)
    for index in range(40):
        if index > 8 and (HERE / "slow").exists():
            (HERE / "begun").touch()
            time.sleep(0.25)
        yield {"image": rng.random((3, 8, 8), np.float32)}
'''


def _interrupted(program: Path, arguments: Sequence[str], home: Path) -> tuple[int, str]:
    """Run a command, press Ctrl-C once it has begun to count, and return its status and what it said."""
    heeds_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it
    with subprocess.Popen([program, *arguments], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, preexec_fn=heeds_ctrl_c) as running:
        until = time.monotonic() + 30
        while not (home / "begun").exists() and running.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    return running.returncode, " ".join((out + err).split())


@pytest.fixture
def slow_home(home: Path) -> Path:
    (home / "feed.py").write_text(FEED)
    (home / "slow").touch()
    (home / "recipe.toml").write_text((home / "recipe.toml").read_text().replace('"photos"', '"feed.py:feed"'))
    return home


def test_calibrate_goes_on_to_a_byte_identical_table(slow_home: Path, program: Path, process: Cli, cli: Cli,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("calibrate", "m.onnx", "--data", "feed.py:feed", "-o", "out.calib")
    code, said = _interrupted(program, command, slow_home)
    assert code == 130
    assert "Traceback" not in said
    assert "out.calib.part" in said
    assert "go on" in said
    assert (slow_home / "out.calib").read_bytes() == b"the out.calib of an earlier run"
    assert {path.name for path in slow_home.glob("*.part")} == {"out.calib.part"}
    assert not list(slow_home.glob(".*"))
    (slow_home / "slow").unlink()
    done = process(*command, cwd=slow_home)
    assert done.code == 0, done.err
    assert "40 samples" in done.out
    assert not list(slow_home.glob("*.part"))
    monkeypatch.chdir(slow_home)
    assert cli(*command[:-1], "at_once.calib").code == 0
    assert (slow_home / "out.calib").read_bytes() == (slow_home / "at_once.calib").read_bytes()


def test_deploy_leaves_the_old_bundle_and_goes_on(slow_home: Path, program: Path, cli: Cli,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = _interrupted(program, ("deploy", "recipe.toml"), slow_home)
    assert code == 130
    assert "Traceback" not in said
    assert "Interrupted" in said
    assert (slow_home / "m.trtkit").read_bytes() == b"the m.trtkit of an earlier run"
    work = slow_home / "m.trtkit.work"
    assert [path.name for path in work.iterdir()] == ["calibration.table.part"]
    (slow_home / "slow").unlink()
    monkeypatch.chdir(slow_home)
    done = cli("deploy", "recipe.toml")
    assert done.code == 0, done.err
    assert "calibration.table" in {path.name for path in work.iterdir()}
    assert not list(work.glob("*.part"))
