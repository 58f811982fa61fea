"""Options of FSL's eddy: the file of `--eddy-config`, in QSIPrep's form, and what eddy calls them.

QSIPrep names them as nipype does. What this app decides by itself (files, fields, slice order) is
no option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.json_files import read_object


@dataclass(frozen=True)
class EddyOption:
    """An option of eddy.

    Attributes
    ----------
    flag
        Name on eddy's command line, without dashes; empty: not on it.
    allowed
        Type of the value, or the words that are allowed.
    needs
        Key without which it has no meaning; empty: none.
    """

    flag: str
    allowed: type | tuple[str, ...]
    needs: str = ""


#: Options by their key in the file. Numbers have to be positive, but for `multiband_offset`.
OPTIONS: Mapping[str, EddyOption] = {
    "flm": EddyOption("flm", ("linear", "quadratic", "cubic")),
    "slm": EddyOption("slm", ("none", "linear", "quadratic")),
    "fep": EddyOption("fep", bool),
    "initrand": EddyOption("initrand", bool),
    "interp": EddyOption("interp", ("spline", "trilinear")),
    "nvoxhp": EddyOption("nvoxhp", int),
    "fudge_factor": EddyOption("ff", float),
    "dont_sep_offs_move": EddyOption("dont_sep_offs_move", bool),
    "dont_peas": EddyOption("dont_peas", bool),
    "fwhm": EddyOption("fwhm", str),
    "niter": EddyOption("niter", int),
    "method": EddyOption("resamp", ("jac",)),
    "repol": EddyOption("repol", bool),
    "outlier_nstd": EddyOption("ol_nstd", float, "repol"),
    "outlier_nvox": EddyOption("ol_nvox", int, "repol"),
    "outlier_type": EddyOption("ol_type", ("sw", "gw", "both"), "repol"),
    "outlier_pos": EddyOption("ol_pos", bool, "repol"),
    "outlier_sqr": EddyOption("ol_sqr", bool, "repol"),
    "multiband_factor": EddyOption("mb", int),
    "multiband_offset": EddyOption("mb_offs", int, "multiband_factor"),
    "mporder": EddyOption("mporder", int, "use_cuda"),
    "slice2vol_niter": EddyOption("s2v_niter", int, "mporder"),
    "slice2vol_lambda": EddyOption("s2v_lambda", float, "mporder"),
    "slice2vol_interp": EddyOption("s2v_interp", ("trilinear", "spline"), "mporder"),
    "estimate_move_by_susceptibility": EddyOption("estimate_move_by_susceptibility", bool),
    "mbs_niter": EddyOption("mbs_niter", int, "estimate_move_by_susceptibility"),
    "mbs_lambda": EddyOption("mbs_lambda", float, "estimate_move_by_susceptibility"),
    "mbs_ksp": EddyOption("mbs_ksp", float, "estimate_move_by_susceptibility"),
    "is_shelled": EddyOption("data_is_shelled", bool),
    "cnr_maps": EddyOption("cnr_maps", bool),
    "residuals": EddyOption("residuals", bool),
    # Not eddy's own: its CUDA build is taken, or is not; all builds if it is not said.
    "use_cuda": EddyOption("", bool),
}

#: Keys of QSIPrep's files that have no effect: this app decides about them.
WITHOUT_EFFECT = ("num_threads", "output_type")

#: Iterations of eddy unless niter says otherwise.
N_ITERATIONS = 5

#: What eddy is told unless the file says otherwise. `slm` depends on the directions.
DEFAULTS: Mapping[str, Any] = {"repol": True, "is_shelled": True, "cnr_maps": True}


def read_eddy_config(path: str | Path) -> dict[str, Any]:
    """Read the file of `--eddy-config`.

    Parameters
    ----------
    path
        JSON object with keys of :data:`OPTIONS`.

    Raises
    ------
    ConfigError
        If the file cannot be read, or :func:`check_eddy_config` refuses it.
    """
    content = read_object(
        path, error_class=ConfigError, expected='options of eddy, {"repol": true, "slm": "linear"}'
    )
    check_eddy_config(content, path=path)
    return {k: v for k, v in content.items() if k in OPTIONS}


def check_eddy_config(content: Mapping[str, Any], *, path: str | Path | None = None) -> None:
    """Refuse options that eddy does not have, that this app sets, or that need another.

    Raises
    ------
    ConfigError
        If there are such options, or a value is not allowed.
    """
    known = {**OPTIONS, **dict.fromkeys(WITHOUT_EFFECT)}
    unknown = [k for k, v in content.items() if k not in known and not (k == "args" and v == "")]
    if unknown:
        raise ConfigError(
            f"eddy is to be called with {', '.join(unknown)}",
            path=path,
            expected=f"some of {', '.join(OPTIONS)}",
            advice="leave out what this app sets by itself: files, the field, the slice order "
            "(from SliceTiming); `args` takes no further arguments",
        )
    options = {**DEFAULTS, **content}
    for key, value in content.items():
        option = OPTIONS.get(key)
        if option is None:
            continue
        if not _is_allowed(key, value, option.allowed):
            raise ConfigError(
                f"{key} of eddy is {value!r}", path=path, expected=_describe(key, option.allowed)
            )
        if option.needs and value and not options.get(option.needs):
            raise ConfigError(
                f"{key} of eddy without {option.needs}",
                path=path,
                expected=f"{option.needs} beside it",
            )
    _check_widths(content, path)


def _check_widths(options: Mapping[str, Any], path: str | Path | None) -> None:
    """Refuse widths of eddy's filter that are neither one nor one for each iteration."""
    n_widths = len(str(options.get("fwhm", "0")).split(","))
    n_iterations = options.get("niter", N_ITERATIONS)
    if n_widths not in (1, n_iterations):
        raise ConfigError(
            f"fwhm of eddy has {n_widths} widths for {n_iterations} iterations",
            path=path,
            expected="one width, or one for each iteration (niter)",
        )


def _is_allowed(key: str, value: Any, allowed: type | tuple[str, ...]) -> bool:
    if isinstance(allowed, tuple):
        return value in allowed
    if allowed is bool:
        return isinstance(value, bool)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "multiband_offset":
        return is_number and value in (-1, 0, 1)
    if key == "fwhm":
        return _is_widths(value)
    is_whole = is_number and float(value).is_integer()
    return is_number and value > 0 and (allowed is float or is_whole)


def _is_widths(value: Any) -> bool:
    """Tell a width of eddy's filter, mm, or widths of its iterations parted by commas."""
    words = value.split(",") if isinstance(value, str) else [value]
    try:
        return all(float(w) >= 0 and not isinstance(w, bool) for w in words)
    except (TypeError, ValueError):
        return False


def _describe(key: str, allowed: type | tuple[str, ...]) -> str:
    if key == "method":
        return "jac: least squares (lsr) merges volumes, whose gradients would be lost"
    if isinstance(allowed, tuple):
        return " or ".join(allowed)
    words = {bool: "true or false", int: "a whole number above 0", float: "a number above 0"}
    special = {"multiband_offset": "-1, 0 or 1", "fwhm": "a width in mm, or several, 10,6,4,0,0"}
    return special.get(key) or words[allowed]


def eddy_arguments(options: Mapping[str, Any]) -> dict[str, str | bool]:
    """Return eddy's arguments for options of the file, by their names on the command line.

    Examples
    --------
    >>> eddy_arguments({"repol": True, "fep": False, "fudge_factor": 10, "use_cuda": True})
    {'repol': True, 'ff': '10'}
    """
    return {
        OPTIONS[key].flag: True if value is True else _format(value)
        for key, value in options.items()
        if OPTIONS[key].flag and value is not False
    }


def _format(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
