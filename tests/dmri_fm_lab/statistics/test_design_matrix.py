"""Design matrices: what formulas give, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.statistics.design_matrix import build_design, formula_variables

DATA = pd.DataFrame(
    {
        "age": [20.0, 30, 40, 50, 60, 70, 25, 35],
        "sex": list("FMFMFMMF"),
        "site": list("aabbccaa"),
        "tesla": list("33117733"),
    }
)


def test_a_term_is_all_of_its_columns_and_a_contrast_their_combination():
    design = build_design("value ~ age + C(site)", DATA)
    found = design.contrasts(["C( site )"], {"b - c": "C(site)[T.b] - C(site)[T.c]"})
    assert list(found) == ["C(site)[T.b]", "C(site)[T.c]", "b - c"]
    np.testing.assert_array_equal(found["b - c"], [0, 0, 1, -1])


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("fa ~ age", "left side fa"),
        ("value ~ age +", "formula"),
        ("value ~ age + C(site) + C(tesla)", r"depend on each other: .*C\(site\).*C\(tesla\)"),
        ("value ~ age + I(2 * age)", "depend on each other: age, I"),
        ("value ~ np.log(age - 20)", "is not finite"),
        ("value ~ age * C(sex) * C(site)", "8 scans for 12 columns"),
    ],
)
def test_what_cannot_be_fitted_is_refused(formula, message):
    with pytest.raises(ConfigError, match=message):
        build_design(formula, DATA)


def test_unknown_terms_contrasts_and_variables_are_refused():
    design = build_design("value ~ age", DATA)
    with pytest.raises(ConfigError, match="term sex is not in the formula"):
        design.contrasts(["sex"], {})
    for text in ("age - nobody", "age = 3", "0 * age"):
        with pytest.raises(ConfigError, match="contrast"):
            design.contrasts([], {"x": text})
    with pytest.raises(ConfigError, match="no variable height"):
        formula_variables("value ~ age + height", list(DATA))


def test_variables_inside_functions_are_found():
    assert formula_variables("value ~ bs(age, df=4) + C(sex)", list(DATA)) == ["age", "sex"]


@pytest.mark.parametrize(
    "code",
    [
        "I(age * __import__('os').system('touch {path}'))",
        "I(open('{path}', 'w').close() or age)",
        "{{age + len(open('{path}', 'w').name)}}",
        "age.to_pickle('{path}')",
        "np.save('{path}', age)",
        "np.lib.format.open_memmap('{path}', 'w+', shape=(8,))",
        "I([age for age in [open('{path}', 'w')]])",
        "C(sex, (lambda: open('{path}', 'w'))())",
        "bs(age, df=eval('4'))",
        "I(age.__class__)",
        "contr.__init__.__globals__['os']",
    ],
)
def test_formulas_run_no_code(tmp_path, code):
    text = "value ~ sex + " + code.format(path=tmp_path / "written")
    for use in (lambda: build_design(text, DATA), lambda: formula_variables(text, list(DATA))):
        with pytest.raises(ConfigError, match="formula"):
            use()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "term",
    [
        "bs(age, df=4)", "center(age)", "poly(age, degree=2)", "np.log(age) + I(age ** 2)",
        "C(sex, contr.treatment('M'))", "C(site, Treatment('b'))", "scale(age):C(sex)",
        "{age * 2 - 1}", "I((age > 30) * 1)", "`age`", "log(age)",
    ],
)  # fmt: skip
def test_functions_of_formulas_are_kept(term):
    assert len(build_design(f"value ~ {term}", DATA).names) > 1
