"""A training that was stopped, or killed by a real SIGKILL, against one that was not: equal to the bit."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trtkit.compress.training.checkpoint import Checkpoint
from trtkit.compress.training.log import Row, plot_curve, write_log
from trtkit.compress.training.loop import CHECKPOINT, CURVE, LOG, fit
from trtkit.compress.training.losses import step_for
from trtkit.compress.training.spec import Optimizer, Schedule, TrainSpec
from trtkit.errors import TrainingError

STEP = step_for("cross_entropy")
SPEC = TrainSpec(epochs=3, learning_rate=0.01, checkpoint_seconds=0)


class Stop(BaseException):
    """Ends a run where a test wants it to."""


class Samples(torch.utils.data.Dataset):
    """Augmented by NumPy's random numbers, as many pipelines do."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(20, 3, 8, 8, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index] + np.float32(np.random.normal(0, 0.1)), index % 4


class Lazy:
    """Draws its samples as it goes, from torch's own random numbers."""

    def __iter__(self):
        images = Samples().images
        for _ in range(5):
            chosen = torch.randint(0, 20, (4,))
            yield images[chosen], chosen % 4


LOADERS: dict[str, Callable[[], object]] = {
    "shuffled": lambda: torch.utils.data.DataLoader(Samples(), 4, shuffle=True),
    "own-generator": lambda: torch.utils.data.DataLoader(Samples(), 4, shuffle=True,
                                                         generator=torch.Generator().manual_seed(3)),
    "lazy": Lazy,
}


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 4))


def stopping(at: int) -> Callable[[nn.Module], None]:
    left = [at]

    def after_step(_: nn.Module) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return after_step


def equal(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("stops", [(2,), (5,), (7,), (1, 2, 3)], ids=str)
def test_fit_goes_on_to_the_bit_when_it_was_stopped(tmp_path, loader, stops):
    def score(_: nn.Module) -> float:
        return float(torch.rand(1))

    whole, resumed = net(), net()
    expected = fit(whole, LOADERS[loader](), STEP, SPEC, evaluate=score)
    for at in stops:
        with pytest.raises(Stop):
            fit(net(), LOADERS[loader](), STEP, SPEC, folder=tmp_path, after_step=stopping(at), evaluate=score)
    result = fit(resumed, LOADERS[loader](), STEP, SPEC, folder=tmp_path, evaluate=score)
    assert result.resumed == sum(stops)
    assert result.history == expected.history
    assert equal(whole, resumed)


@pytest.mark.parametrize("spec", [
    replace(SPEC, optimizer=Optimizer.SGD, schedule=Schedule.ONECYCLE, clip_norm=0.5),
    replace(SPEC, checkpoint_seconds=1e6),
], ids=["sgd-onecycle", "checkpoints-between-epochs-only"])
def test_fit_goes_on_to_the_bit_with_other_settings(tmp_path, spec):
    whole, resumed = net(), net()
    whole[0].requires_grad_(False)
    resumed[0].requires_grad_(False)
    expected = fit(whole, LOADERS["shuffled"](), STEP, spec)
    stopped = net()
    stopped[0].requires_grad_(False)
    with pytest.raises(Stop):
        fit(stopped, LOADERS["shuffled"](), STEP, spec, folder=tmp_path, after_step=stopping(7))
    result = fit(resumed, LOADERS["shuffled"](), STEP, spec, folder=tmp_path)
    assert result.resumed == (7 if spec.checkpoint_seconds == 0 else 5)
    assert result.history == expected.history
    assert equal(whole, resumed)


def test_fit_goes_on_with_the_evaluation_when_it_was_stopped_in_it(tmp_path):
    def stop(_):
        raise Stop

    expected = fit(net(), LOADERS["shuffled"](), STEP, SPEC, evaluate=lambda _: float(torch.rand(1)))
    with pytest.raises(Stop):
        fit(net(), LOADERS["shuffled"](), STEP, SPEC, folder=tmp_path, evaluate=stop)
    result = fit(net(), LOADERS["shuffled"](), STEP, SPEC, folder=tmp_path, evaluate=lambda _: float(torch.rand(1)))
    assert result.resumed == 5
    assert result.history == expected.history


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_training_resume as here

left = [8]
def step(module, batch):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return here.STEP(module, batch)

here.fit(here.net(), here.LOADERS["shuffled"](), step, here.SPEC, folder=Path(sys.argv[2]))
"""


def test_fit_gives_the_same_curve_and_weights_when_the_process_was_killed_within_an_epoch(tmp_path):
    killed = subprocess.run([sys.executable, "-c", CHILD, Path(__file__).parent, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    whole, resumed = net(), net()
    expected = fit(whole, LOADERS["shuffled"](), STEP, SPEC, folder=tmp_path / "whole")
    result = fit(resumed, LOADERS["shuffled"](), STEP, SPEC, folder=tmp_path)
    assert result.resumed == 7
    assert result.history == expected.history
    assert equal(whole, resumed)
    assert (tmp_path / LOG).read_bytes() == (tmp_path / "whole" / LOG).read_bytes()


def test_fit_removes_what_a_killed_run_left_half_written(tmp_path):
    left, other = tmp_path / f".{CHECKPOINT}.abc.part", tmp_path / "other.part"
    left.touch()
    other.touch()
    fit(net(), LOADERS["lazy"](), STEP, replace(SPEC, epochs=1), folder=tmp_path)
    assert not left.exists()
    assert other.exists()


def test_fit_returns_a_finished_training_without_a_step(tmp_path):
    first, again = net(), net()
    result = fit(first, LOADERS["shuffled"](), STEP, SPEC, folder=tmp_path)
    found = fit(again, LOADERS["shuffled"](), stopping(0), SPEC, folder=tmp_path)
    assert found.history == result.history
    assert found.resumed == 15
    assert equal(first, again)


@pytest.mark.parametrize(("change", "text"), [
    (lambda: (net(), replace(SPEC, learning_rate=0.5), ""), r"learning_rate \(was 0.01, is 0.5\)"),
    (lambda: (nn.Sequential(*net(), nn.ReLU()), SPEC, ""), r"model \(was Sequential"),
    (lambda: (net().apply(lambda each: isinstance(each, nn.Linear) and nn.init.ones_(each.weight)), SPEC, ""),
     "weights at the start"),
    (lambda: (net(), SPEC, "teacher B"), r"identity \(was none, is teacher B\)"),
    (lambda: (nn.Sequential(*(each.requires_grad_(number != 6) for number, each in enumerate(net()))), SPEC, ""),
     "frozen parameters"),
], ids=["settings", "layers", "weights", "identity", "frozen"])
def test_fit_refuses_the_folder_of_another_training(tmp_path, change, text):
    fit(net(), LOADERS["lazy"](), STEP, SPEC, folder=tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    module, spec, identity = change()
    with pytest.raises(TrainingError, match=text):
        fit(module, LOADERS["lazy"](), STEP, spec, folder=tmp_path, identity=identity)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "cut"], ids=["empty", "text", "cut"])
def test_fit_refuses_a_damaged_checkpoint(tmp_path, content):
    fit(net(), LOADERS["lazy"](), STEP, SPEC, folder=tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(TrainingError, match=r"no checkpoint of a training, or a damaged one .*Remove it"):
        fit(net(), LOADERS["lazy"](), STEP, SPEC, folder=tmp_path)


def test_fit_tells_that_a_checkpoint_cannot_be_written_and_keeps_the_one_before(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    steps = []

    def fill(_: nn.Module) -> None:
        steps.append(1)
        if len(steps) == 4:  # as a full disk does, the kernel refuses to write more
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(TrainingError, match=r"Checkpoint after step 4: .* cannot be written.*Free some space"):
            fit(net(), LOADERS["lazy"](), STEP, SPEC, folder=tmp_path, after_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoint.load(tmp_path / CHECKPOINT).facts["step"] == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == [CHECKPOINT, LOG]
    assert fit(net(), LOADERS["lazy"](), STEP, SPEC, folder=tmp_path).resumed == 3


def test_fit_keeps_the_last_good_checkpoint_when_the_loss_becomes_nan(tmp_path):
    seen = []

    def step(module, batch):
        seen.append(1)
        return STEP(module, batch) * (float("nan") if len(seen) == 4 else 1.0)

    with pytest.raises(TrainingError, match=r"loss is nan at step 4 \(epoch 1, batch 4 of 5\)"):
        fit(net(), LOADERS["lazy"](), step, SPEC, folder=tmp_path)
    checkpoint = Checkpoint.load(tmp_path / CHECKPOINT)
    assert checkpoint.facts["step"] == 3
    assert all(tensor.isfinite().all() for tensor in checkpoint.below("module.").values())


def test_fit_writes_log_and_curve(tmp_path):
    result = fit(net(), LOADERS["lazy"](), STEP, SPEC, folder=tmp_path / "new" / "folder", evaluate=lambda _: 0.5)
    lines = (tmp_path / "new" / "folder" / LOG).read_text().splitlines()
    assert lines[0] == "epoch,step,loss,learning_rate,score"
    assert len(lines) == 16
    assert lines[1].endswith(",0.01,")
    assert lines[5] == f"1,5,{result.history[4].loss!r},{result.history[4].learning_rate!r},0.5"
    assert (tmp_path / "new" / "folder" / CURVE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("score", [None, 0.5])
def test_log_and_curve_take_one_row(tmp_path, score):
    rows = [Row(1, 1, 2.5, 0.1, score)]
    write_log(rows, tmp_path / "log.csv")
    plot_curve(rows, tmp_path / "curve.png")
    assert (tmp_path / "log.csv").read_text().splitlines()[1] == f"1,1,2.5,0.1,{score or ''}"
    assert (tmp_path / "curve.png").stat().st_size > 5000
