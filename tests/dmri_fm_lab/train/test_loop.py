import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dmri_fm.errors import ConfigError
from dmri_fm_lab.train.config import Optimisation
from dmri_fm_lab.train.loop import Validation, learning_rate_at, run_training, weight_decay_at

SETTINGS = Optimisation(
    n_steps=30,
    warmup_steps=5,
    learning_rate=0.05,
    final_learning_rate=0.001,
    average_decay=0.5,
    checkpoint_minutes=0.0,
)


def make():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def draw(number):
    return torch.randn(16, 3, generator=torch.Generator().manual_seed(number))


def losses(network, x, step):
    loss = (network(x) - x @ torch.tensor([[1.0], [-2.0], [0.5]])).square().mean()
    absent = torch.tensor(float("nan"))
    return {
        "loss": loss,
        "half": loss / 2,
        "sometimes": absent if step % 2 else loss.detach(),
        "never": absent,
    }


def read_log(folder):
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_learns_and_logs(tmp_path):
    run = run_training(
        make(), draw, losses, settings=replace(SETTINGS, n_steps=200), folder=tmp_path
    )
    assert run.steps == 200
    assert not run.model.training
    rows = read_log(tmp_path)
    assert len(rows) == 200
    assert list(rows[0]) == [
        "step",
        "minutes",
        "rate",
        "norm",
        "loss",
        "half",
        "sometimes",
        "never",
    ]
    assert run.last["loss"] < 0.1 * float(rows[0]["loss"])
    assert run.last["half"] == pytest.approx(run.last["loss"] / 2)
    assert "sometimes" in run.last
    assert "never" not in run.last
    assert json.dumps(run.last, allow_nan=False)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = run_training(make(), draw, losses, settings=SETTINGS, folder=tmp_path / "whole")

    class PowerCut(Exception):
        pass

    def interrupted(network, x, step):
        if step == 17:
            raise PowerCut
        return losses(network, x, step)

    folder = tmp_path / "parts"
    with pytest.raises(PowerCut):
        run_training(make(), draw, interrupted, settings=SETTINGS, folder=folder)
    # Rows of steps after the last checkpoint are written again, not twice.
    with (folder / "log.csv").open("a") as stream:
        stream.write("18,0,0,0,0,0,0,0\n")
    resumed = run_training(make(), draw, losses, settings=SETTINGS, folder=folder)
    assert resumed.steps == 30
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[key], value, atol=0, rtol=0)
    assert [r["step"] for r in read_log(folder)] == [str(i + 1) for i in range(30)]


def test_a_finished_run_is_not_repeated(tmp_path):
    first = run_training(make(), draw, losses, settings=SETTINGS, folder=tmp_path)

    def forbidden(network, x, step):
        raise AssertionError

    again = run_training(make(), draw, forbidden, settings=SETTINGS, folder=tmp_path)
    assert again.steps == first.steps
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[key], value, atol=0, rtol=0)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    run_training(make(), draw, losses, settings=SETTINGS, folder=tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        run_training(make(), draw, losses, settings=replace(SETTINGS, seed=1), folder=tmp_path)


def test_the_time_limit_stops_cleanly(tmp_path):
    settings = replace(SETTINGS, max_minutes=1e-9)
    run = run_training(make(), draw, losses, settings=settings, folder=tmp_path)
    assert run.steps == 1
    assert run_training(make(), draw, losses, settings=SETTINGS, folder=tmp_path).steps == 30


def test_what_is_kept_is_the_running_average(tmp_path):
    settings = replace(SETTINGS, n_steps=2, average_decay=0.75)
    seen = []

    def watched(network, x, step):
        seen.append(network.state_dict()["weight"].clone())
        return losses(network, x, step)

    model = make()
    run = run_training(model, draw, watched, settings=settings, folder=tmp_path)
    # The first update copies the weights after step one; the second mixes in step two.
    assert len(seen) == 2
    assert not torch.equal(run.model.weight, seen[1])


def test_the_weights_of_the_lowest_validation_error_are_kept(tmp_path):
    """Also by a run in two parts, the first of which ends after the best step."""
    errors = {10: 0.5, 20: 0.25, 30: 0.75}
    seen = {}

    def validate(network):
        assert not network.training
        step = 10 * (len(seen) + 1)
        seen[step] = network.weight.detach().clone()
        return errors[step]

    def train(folder, **changes):
        settings = replace(SETTINGS, **changes)
        check = Validation(10, validate)
        return run_training(
            make(), draw, losses, settings=settings, folder=folder, validation=check
        )

    whole = train(tmp_path / "whole")
    assert (whole.best_step, whole.best_error) == (20, 0.25)
    assert torch.equal(whole.model.weight, seen[20])
    assert not torch.equal(whole.model.weight, seen[30])
    table = (tmp_path / "whole" / "validation.csv").read_text(encoding="utf-8")
    assert table.split() == ["step,error", "10,0.5", "20,0.25", "30,0.75"]
    seen.clear()
    first = train(tmp_path / "parts", max_steps=23)
    assert first.best_step == 20
    assert torch.equal(first.model.weight, whole.model.weight)
    again = train(tmp_path / "parts")
    assert again.best_step == 20
    assert torch.equal(again.model.weight, whole.model.weight)
    assert (tmp_path / "parts" / "validation.csv").read_text(encoding="utf-8") == table


def test_schedules_by_hand():
    s = Optimisation(
        n_steps=110,
        warmup_steps=10,
        learning_rate=1.0,
        final_learning_rate=0.2,
        weight_decay=0.04,
        final_weight_decay=0.4,
    )
    rates = [learning_rate_at(i, s) for i in (0, 9, 10, 60, 110, 500)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.6, 0.2, 0.2])
    halves = replace(s, schedule="halves")
    assert [learning_rate_at(i, halves) for i in (0, 10, 59, 60, 110)] == pytest.approx(
        [0.1, 1.0, 1.0, 0.2, 0.2]
    )
    assert [weight_decay_at(i, s) for i in (0, 55, 110)] == pytest.approx([0.04, 0.22, 0.4])


def test_a_step_is_drawn_once_and_in_order(tmp_path):
    asked = []

    def watched(number):
        asked.append(number)
        return draw(number)

    run_training(make(), watched, losses, settings=SETTINGS, folder=tmp_path)
    assert asked == list(range(SETTINGS.n_steps))


def test_what_goes_wrong_in_the_thread_is_raised(tmp_path):
    def broken(number):
        raise ConfigError(f"no data for {number}")

    with pytest.raises(ConfigError, match="no data for 0"):
        run_training(make(), broken, losses, settings=SETTINGS, folder=tmp_path)


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    """Each draws numbers of its own, gradients are averaged, one of them writes."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from dataclasses import replace\n"
        "import torch\n"
        "from test_loop import SETTINGS, draw, losses, make\n"
        "from dmri_fm_lab.train.loop import Hardware, run_training\n"
        "run = run_training(make(), draw, losses, settings=replace(SETTINGS, n_steps=4),\n"
        "                   folder=sys.argv[1], hardware=Hardware(devices=2))\n"
        "torch.save(run.model.state_dict(), f'{sys.argv[1]}/{run.is_main}.pt')\n",
        encoding="utf-8",
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])
    }
    folder = tmp_path / "run"
    subprocess.run([sys.executable, script, folder], check=True, env=environment, timeout=240)
    first, second = (torch.load(folder / f"{m}.pt", weights_only=True) for m in (True, False))
    assert torch.equal(first["weight"], second["weight"])

    def pair(number):
        return torch.cat([draw(2 * number), draw(2 * number + 1)])

    alone = run_training(
        make(), pair, losses, settings=replace(SETTINGS, n_steps=4), folder=tmp_path / "alone"
    )
    torch.testing.assert_close(alone.model.weight, first["weight"], atol=1e-5, rtol=1e-4)
    assert len(read_log(folder)) == 4
