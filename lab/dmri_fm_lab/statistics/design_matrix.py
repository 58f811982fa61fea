"""The design matrix of a formula, and the linear combinations of its coefficients to test."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula
from formulaic.errors import FormulaicError
from formulaic.parser.types import Factor
from formulaic.transforms import TRANSFORMS
from formulaic.utils.constraints import LinearConstraints
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm_lab.scan_tables import listed

#: Left side of the formula: stands for each outcome.
OUTCOME = "value"

#: Smallest singular value of the standardised design, relative to the largest, that counts.
RANK_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class DesignMatrix:
    """A design of full rank.

    Attributes
    ----------
    matrix
        Shape (N, P).
    names
        P names of columns.
    terms
        Columns of each term of the formula.
    """

    matrix: NDArray[np.float64]
    names: tuple[str, ...]
    terms: Mapping[str, tuple[int, ...]]

    def contrasts(
        self, terms: Sequence[str], combinations: Mapping[str, str]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the linear combinations (P,) to test, by name.

        Parameters
        ----------
        terms
            Terms of the formula, every column of which is tested, or names of columns.
        combinations
            Name and text of further ones.

        Raises
        ------
        ConfigError
            If a term is not in the formula, or a text is not a linear combination of columns.
        """
        unit = np.eye(len(self.names))
        found: dict[str, NDArray[np.float64]] = {}
        for term in terms:
            wanted = _squeeze(term)
            of_term = [c for name, c in self.terms.items() if _squeeze(name) == wanted]
            columns = of_term[0] if of_term else _positions(self.names, wanted)
            if not columns:
                raise ConfigError(
                    f"term {term} is not in the formula",
                    expected=f"{listed(list(self.terms))}, or a column: {listed(self.names)}",
                )
            found |= {self.names[c]: unit[c] for c in columns}
        for name, text in combinations.items():
            found[name] = _combination(text, self.names)
        return found


def parse_formula(text: str) -> Any:
    """Return the right side of a formula.

    Raises
    ------
    ConfigError
        If it cannot be parsed or its left side is not `value`.
    """
    try:
        formula = Formula(text)
        left = getattr(formula, "lhs", None)
        right = formula.rhs if left is not None else formula
        sides = [str(term) for term in left] if left is not None else [OUTCOME]
    except (FormulaicError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"formula {text!r} ({_one_line(error)})", expected=_EXAMPLE) from None
    if sides != [OUTCOME]:
        raise ConfigError(f"left side {listed(sides)} of {text!r}", expected=_EXAMPLE)
    for factor in (f for term in right for f in term.factors):
        if factor.eval_method == Factor.EvalMethod.PYTHON:
            _check_expression(str(factor))
    return right


def _check_expression(text: str) -> None:
    """Refuse what is more than arithmetic and functions of formulas: formulaic runs it as Python.

    Raises ConfigError, which names the part that is refused.
    """
    tree = _expression(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.Name) and node.id in TRANSFORMS
        if isinstance(node, ast.Attribute):
            is_function = _is_numpy_or_contrast(node)
        elif not isinstance(node, _ARITHMETIC):
            raise _refused(text, node)
        if (id(node) in called or isinstance(node, ast.Attribute)) and not is_function:
            raise _refused(text, node)


#: Syntax of expressions in formulas beside functions.
_ARITHMETIC = (
    ast.Module, ast.Expression, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop, ast.Compare,
    ast.cmpop, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple,
    ast.Dict,
)  # fmt: skip


def _is_numpy_or_contrast(node: ast.Attribute) -> bool:
    """Tell whether an attribute is a function of numbers (`np.log`) or a contrast's coding."""
    if not isinstance(node.value, ast.Name) or node.attr.startswith("_"):
        return False
    if node.value.id == "np":
        return isinstance(getattr(np, node.attr, None), np.ufunc)
    return node.value.id == "contr"


def _refused(text: str, node: ast.AST) -> ConfigError:
    return ConfigError(
        f"formula has {ast.unparse(node)!r} in {text!r}",
        expected="variables, arithmetic, functions of numpy such as np.log, and "
        + listed(sorted(TRANSFORMS.keys() - {"np", "contr"})),
        advice="compute such a column beforehand, and name its table in the request",
    )


_EXAMPLE = "a formula such as value ~ age + C(sex) + C(site)"


def formula_variables(text: str, known: Sequence[str]) -> list[str]:
    """Return the variables of a formula among known ones, in their order.

    Raises ConfigError if one is not known.
    """
    formula = parse_formula(text)
    words = set(formula.required_variables)
    for factor in {str(f) for term in formula for f in term.factors}:
        words |= {n.id for n in ast.walk(_expression(factor)) if isinstance(n, ast.Name)} & {
            *known
        }
    if unknown := sorted(words - set(known)):
        raise ConfigError(
            f"no variable {listed(unknown)} for the formula",
            expected=f"columns of participants, sessions or tables: {listed(list(known))}",
        )
    return [c for c in known if c in words]


def build_design(text: str, data: pd.DataFrame) -> DesignMatrix:
    """Build the design matrix of a formula.

    Parameters
    ----------
    text
        Formula.
    data
        Its variables, complete, one row per scan.

    Raises
    ------
    ConfigError
        If the formula cannot be evaluated, scans are not more than columns, or columns depend on
        each other; these are named.
    """
    formula = parse_formula(text)
    try:
        with np.errstate(all="ignore"):
            matrix = formula.get_model_matrix(data, context={"np": np}, na_action="ignore")
    except (FormulaicError, ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"formula {text!r} ({_one_line(error)})", expected=_EXAMPLE) from None
    names = tuple(map(str, matrix.columns))
    values = np.asarray(matrix, dtype=np.float64)
    indices = matrix.model_spec.term_indices
    terms = {str(t): tuple(map(int, c)) for t, c in indices.items() if len(c)}
    if not np.isfinite(values).all():
        bad = [n for n, c in zip(names, values.T, strict=True) if not np.isfinite(c).all()]
        raise ConfigError(
            f"column {listed(bad)} of the design is not finite",
            expected="transforms that are defined for every scan",
        )
    check_rank(values, names)
    return DesignMatrix(values, names, terms)


def check_rank(matrix: NDArray[np.float64], names: Sequence[str]) -> None:
    """Refuse a design without full rank, or with too few scans.

    Raises ConfigError, which names the columns.
    """
    n, p = matrix.shape
    if n <= p:
        raise ConfigError(
            f"{n} scans for {p} columns of the design",
            expected=f"more scans than columns ({listed(names)})",
            advice="leave out terms, or look at what left out the other scans",
        )
    scale = np.linalg.norm(matrix, axis=0)
    if (scale == 0).any():
        empty = [name for name, s in zip(names, scale, strict=True) if s == 0]
        raise ConfigError(f"column {listed(empty)} of the design is zero", expected="variation")
    _, s, vt = np.linalg.svd(matrix / scale, full_matrices=False)
    if dependent := np.flatnonzero(s < RANK_TOLERANCE * s[0]).tolist():
        loads = np.abs(vt[dependent]).max(axis=0) > 1e-6
        involved = [name for name, x in zip(names, loads, strict=True) if x]
        raise ConfigError(
            f"columns of the design depend on each other: {listed(involved)}",
            expected="a design of full rank",
            advice="leave out one of these terms: their effects cannot be told apart",
        )


def _combination(text: str, names: tuple[str, ...]) -> NDArray[np.float64]:
    try:
        found = LinearConstraints.from_spec(text, variable_names=list(names))
        rows = np.asarray(found.constraint_matrix, dtype=np.float64)
    except (FormulaicError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"contrast {text!r} ({_one_line(error)})",
            expected=f"a linear combination of {listed(names)}",
        ) from None
    if rows.shape != (1, len(names)) or not rows.any() or np.any(found.constraint_values):
        raise ConfigError(
            f"contrast {text!r}", expected=f"one linear combination of {listed(names)}"
        )
    return np.asarray(rows[0])


def _positions(names: Sequence[str], wanted: str) -> tuple[int, ...]:
    return tuple(i for i, name in enumerate(names) if _squeeze(name) == wanted)


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _expression(text: str) -> ast.AST:
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])  # a name in backticks


def _one_line(error: Exception) -> str:
    """Return the first line of a message, without the marks that formulaic colours words with."""
    plain = re.sub(r"\x1b?\[[\d;]*m|[⧛⧚]", "", str(error)).split("\n")[0]
    return plain or type(error).__name__
