"""Options of FSL's eddy: the file of `--eddy-config`, in QSIPrep's form, and what eddy calls them.

QSIPrep names them as nipype does. What this app decides by itself (files, fields, slice order) is
no option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
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
    limits
        Lowest and highest number that eddy takes; None: any above 0.
    """

    flag: str
    allowed: type | tuple[str, ...]
    needs: str = ""
    limits: tuple[float, float] | None = None


_MBS = "estimate_move_by_susceptibility"

#: Options by their key in the file. Limits are those of eddy's own check of its arguments.
OPTIONS: Mapping[str, EddyOption] = {
    "flm": EddyOption("flm", ("linear", "quadratic", "cubic")),
    "slm": EddyOption("slm", ("none", "linear", "quadratic")),
    "fep": EddyOption("fep", bool),
    "initrand": EddyOption("initrand", bool),
    "interp": EddyOption("interp", ("spline", "trilinear")),
    "nvoxhp": EddyOption("nvoxhp", int, limits=(100, 50_000)),
    "fudge_factor": EddyOption("ff", float, limits=(1, 10)),
    "dont_sep_offs_move": EddyOption("dont_sep_offs_move", bool),
    "dont_peas": EddyOption("dont_peas", bool),
    "fwhm": EddyOption("fwhm", str, limits=(0, 20)),
    "niter": EddyOption("niter", int),
    "method": EddyOption("resamp", ("jac",)),
    "repol": EddyOption("repol", bool),
    "outlier_nstd": EddyOption("ol_nstd", float, "repol", (1.96, inf)),
    "outlier_nvox": EddyOption("ol_nvox", int, "repol", (250, inf)),
    "outlier_type": EddyOption("ol_type", ("sw", "gw", "both"), "repol"),
    "outlier_pos": EddyOption("ol_pos", bool, "repol"),
    "outlier_sqr": EddyOption("ol_sqr", bool, "repol"),
    "multiband_factor": EddyOption("mb", int, limits=(1, 10)),
    "multiband_offset": EddyOption("mb_offs", int, "multiband_factor", (-1, 1)),
    "mporder": EddyOption("mporder", int, "use_cuda"),
    "slice2vol_niter": EddyOption("s2v_niter", int, "mporder", (1, 100)),
    "slice2vol_lambda": EddyOption("s2v_lambda", float, "mporder"),
    "slice2vol_interp": EddyOption("s2v_interp", ("trilinear", "spline"), "mporder"),
    _MBS: EddyOption(_MBS, bool),
    "mbs_niter": EddyOption("mbs_niter", int, _MBS, (1, 50)),
    "mbs_lambda": EddyOption("mbs_lambda", float, _MBS, (1, 10_000)),
    "mbs_ksp": EddyOption("mbs_ksp", float, _MBS, (2, 30)),
    "is_shelled": EddyOption("data_is_shelled", bool),
    "cnr_maps": EddyOption("cnr_maps", bool),
    "residuals": EddyOption("residuals", bool),
    # Not eddy's own: its CUDA build is taken, or is not; all builds if it is not said.
    "use_cuda": EddyOption("", bool),
}

#: Values of `outlier_type` that need to know which slices are excited together.
OF_GROUPS = ("gw", "both")

#: Keys of QSIPrep's files that have no effect: this app decides about them.
WITHOUT_EFFECT = ("num_threads", "output_type")

#: Iterations of eddy unless niter says otherwise.
N_ITERATIONS = 5

#: What eddy is told unless the file says otherwise. `slm` depends on the directions; that the
#: data are shelled is said of tables of shells alone.
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
        If the file cannot be read, or :func:`clean_eddy_config` refuses it.
    """
    content = read_object(
        path, error_class=ConfigError, expected='options of eddy, {"repol": true, "slm": "linear"}'
    )
    return clean_eddy_config(content, path=path)


def clean_eddy_config(
    content: Mapping[str, Any], *, path: str | Path | None = None
) -> dict[str, Any]:
    """Return the options that have an effect, and refuse what eddy or this app does not take.

    Raises
    ------
    ConfigError
        If there are unknown options or some that this app sets, a value is not allowed, or
        options need or exclude each other.
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
        if not _is_allowed(key, value, option):
            raise ConfigError(
                f"{key} of eddy is {value!r}", path=path, expected=_describe(key, option)
            )
        if option.needs and value and not options.get(option.needs):
            raise ConfigError(
                f"{key} of eddy without {option.needs}",
                path=path,
                expected=f"{option.needs} beside it",
            )
    _check_widths(content, path)
    _check_multiband(content, path)
    return {k: v for k, v in content.items() if k in OPTIONS}


def _check_multiband(options: Mapping[str, Any], path: str | Path | None) -> None:
    """Refuse contradictions about which slices are excited together."""
    factor = options.get("multiband_factor")
    if factor is not None and options.get("mporder"):
        raise ConfigError(
            "multiband_factor of eddy beside mporder",
            path=path,
            expected="one of them: eddy takes the order of slices (--slspec, which is made of "
            "SliceTiming for mporder) or a multiband factor (--mb)",
            advice="leave multiband_factor and multiband_offset out",
        )
    if factor == 1 and options.get("multiband_offset"):
        raise ConfigError(
            "multiband_offset of eddy with a multiband_factor of 1",
            path=path,
            expected="multiband_offset 0, or a multiband_factor above 1",
        )
    if factor == 1 and options.get("outlier_type") in OF_GROUPS:
        raise ConfigError(
            f"outlier_type {options['outlier_type']} of eddy with a multiband_factor of 1",
            path=path,
            expected="slices that are excited together",
            advice="use the outlier_type sw",
        )


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


def _is_allowed(key: str, value: Any, option: EddyOption) -> bool:
    allowed = option.allowed
    if isinstance(allowed, tuple):
        return value in allowed
    if allowed is bool:
        return isinstance(value, bool)
    if key == "fwhm":
        return _is_widths(value, option)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not isfinite(value):
        return False
    is_within = value > 0 if option.limits is None else _is_within(value, option.limits)
    return is_within and (allowed is float or float(value).is_integer())


def _is_within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _is_widths(value: Any, option: EddyOption) -> bool:
    """Tell a width of eddy's filter, mm, or widths of its iterations parted by commas."""
    assert option.limits is not None
    words = value.split(",") if isinstance(value, str) else [value]
    try:
        return all(_is_within(float(w), option.limits) and not isinstance(w, bool) for w in words)
    except (TypeError, ValueError):
        return False


def _describe(key: str, option: EddyOption) -> str:
    if key == "method":
        return "jac: least squares (lsr) merges volumes, whose gradients would be lost"
    if isinstance(option.allowed, tuple):
        return " or ".join(option.allowed)
    if key == "fwhm":
        return "a width in mm, 0 to 20, or several, 10,6,4,0,0"
    if option.allowed is bool:
        return "true or false"
    number = "a whole number" if option.allowed is int else "a number"
    if option.limits is None:
        return f"{number} above 0"
    low, high = option.limits
    return f"{number}, {low:g} or more" if high == inf else f"{number}, {low:g} to {high:g}"


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
