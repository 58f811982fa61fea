from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.prediction.embedding import draw_embedding, embed


def test_the_command_finds_what_the_vectors_hold(cohort_files, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    options = ["--measures", str(cohort_files.qc), "--colour", "age", "site", "--components", "3"]
    assert main(["explain", "features", str(out), *cohort_files.options, *options]) == 0
    text = capsys.readouterr().out
    assert "| site | cls002 | eta | 0.8" in text
    assert "| age | cls000 | r | 0.8" in text
    assert "Columns that are not used: family (45 classes of 90 rows)" in text
    table = pd.read_csv(out / "cls_correlations.tsv", sep="\t")
    assert len(table) == (12 + 3) * 5, "dimensions and components by age, sex, dx, site, motion"
    about = json.loads((out / "cls_correlations.json").read_text())
    assert about.pop("Use") == RESEARCH_ONLY
    assert list(about) == list(table)
    strong = table[table["q"] <= 0.05]
    own = strong[strong["feature"].str.startswith("cls") & (strong["value"].abs() > 0.5)]
    assert set(zip(own["feature"], own["column"], strict=True)) == {
        ("cls000", "age"),
        ("cls001", "sex"),
        ("cls002", "site"),
    }
    names = {p.name for p in out.iterdir()}
    assert names == {
        "cls_correlations.tsv",
        "cls_correlations.json",
        "cls_correlations.png",
        "cls_pca_age.png",
        "cls_pca_site.png",
    }
    wrong = ["explain", "features", str(out), *cohort_files.options, "--colour", "height"]
    assert main(wrong) == 1
    assert "no column height" in capsys.readouterr().err


def test_embeddings_that_cannot_be_made(tmp_path) -> None:
    with pytest.raises(ConfigError, match="UMAP of 10 rows"):
        embed(np.eye(10), "umap")
    with pytest.raises(ConfigError, match="embedding 'tsne'"):
        embed(np.eye(10), "tsne")
    names = pd.Series([f"n{i}" for i in range(30)], name="who")
    with pytest.raises(ConfigError, match="who has 30 classes"):
        draw_embedding(np.zeros((30, 2)), ("x", "y"), names, tmp_path / "f.png")


@pytest.mark.slow  # numba compiles UMAP for half a minute
def test_umap_is_seeded_and_keeps_groups_apart(tmp_path) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 40)
    x = rng.normal(size=(80, 6)) + 10 * groups[:, None]
    points, titles = embed(x, "umap", seed=3)
    np.testing.assert_array_equal(points, embed(x, "umap", seed=3)[0])
    centres = [points[groups == g].mean(axis=0) for g in (0, 1)]
    spread = max(points[groups == g].std() for g in (0, 1))
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
    column = pd.Series(np.where(groups, "b", None), name="group")
    assert draw_embedding(points, titles, column, tmp_path / "u.svg").stat().st_size > 1000
