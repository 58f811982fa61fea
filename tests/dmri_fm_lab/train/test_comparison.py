"""Rows of a comparison: trained alike, kept when they are finished."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmri_fm.encoders.drope.config import ABLATION
from dmri_fm.encoders.drope.mae import ABLATION_MAE, MaskedAutoencoder
from dmri_fm.errors import ConfigError
from dmri_fm.registry import MODELS
from dmri_fm_lab.train import comparison, drope
from dmri_fm_lab.train.comparison import Row, pretrain_row
from tests.dmri_fm_lab.evaluate.tiny_drope import middle_of_the_brain

TINY = replace(ABLATION, grid_shape=(16, 16, 16), dim=24, depth=1, heads=2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for runs of tiny networks on small grids."""
    decoder = replace(ABLATION_MAE, decoder_dim=24, decoder_depth=1, decoder_heads=2)
    for name, rotary in (("drope-ablation", "paired"), ("drope-ablation-plain", "none")):
        config = replace(TINY, rotary=rotary)
        monkeypatch.setitem(MODELS, name, MODELS[name]._replace(config=config))
        monkeypatch.setitem(drope.MAE_CONFIGS, name, decoder)
    monkeypatch.setattr(type(TINY), "grid", middle_of_the_brain())
    return tmp_path


def test_rows_differ_in_what_they_say_and_in_nothing_else() -> None:
    first, second = Row(seed=3).build(), Row("drope-ablation-plain", seed=3).build()
    assert first.config.encoder == replace(second.config.encoder, rotary="paired")
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    other = Row(seed=4).build()
    assert not torch.equal(other.encoder.cls_token, first.encoder.cls_token)
    random = Row(seed=3, near_identity=False).build()
    assert torch.equal(random.encoder.cls_token, first.encoder.cls_token)
    assert not torch.equal(random.decoder_pred.weight, first.decoder_pred.weight)
    large = Row(patch=(16, 16, 4)).build()
    assert large.config.encoder == replace(first.config.encoder, patch=(16, 16, 4))
    assert sum(p.numel() for p in first.encoder.parameters()) < 1e6
    rows = (
        Row(),
        Row(seed=1),
        Row(masking="spatial"),
        Row(patch=(8, 8, 8)),
        Row(near_identity=False),
    )
    assert len({row.name for row in rows}) == len(rows)


def test_a_run_is_continued_and_what_is_finished_is_kept(folder, monkeypatch) -> None:
    row = Row()
    early = pretrain_row(row, folder, n_steps=3, until=1)
    late = pretrain_row(row, folder, n_steps=3)
    steps = (folder / row.name / "log.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in steps] == [1, 2, 3]
    assert not torch.equal(early.decoder_pred.weight, late.decoder_pred.weight)

    def refuse(*_args, **_options):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "pretrain_drope", refuse)
        for until, network in ((1, early), (None, late)):
            again = pretrain_row(row, folder, n_steps=3, until=until)
            assert not again.training
            torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    # Neither a step that is past nor another schedule.
    with pytest.raises(ConfigError, match="has reached step 3"):
        pretrain_row(row, folder, n_steps=3, until=2)
    with pytest.raises(ConfigError, match="other settings"):
        pretrain_row(row, folder, n_steps=4)


def test_rows_of_one_seed_share_their_brains(folder) -> None:
    rows = (Row(), Row("drope-ablation-plain", masking="diffusion"), Row(patch=(16, 16, 4)))
    for row in rows:
        network = pretrain_row(row, folder, n_steps=1)
        assert isinstance(network, MaskedAutoencoder)
    assert len(list((folder / "brains").glob("purpose-*"))) == 1
