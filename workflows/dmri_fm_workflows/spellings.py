"""Options that users of fmriprep and qsiprep type: under our name, without effect, or refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dmri_fm.errors import ConfigError

#: Our option, by the spelling of another app. Underscores for hyphens need no entry.
SPELLINGS = {
    "--n-cpus": "--nprocs",
    "--nthreads": "--nprocs",
    "--mem-mb": "--mem",
    "--denoise-method": "--denoise",
    "--hmc-model": "--hmc",
    "--pepolar-method": "--sdc",
    "--boilerplate": "--boilerplate-only",
}

#: Spellings whose values other apps write in capitals, as `--pepolar-method TOPUP`.
_CAPITALS = ("--pepolar-method", "--hmc-model", "--denoise-method")

#: Options that change nothing here, and why.
WITHOUT_EFFECT = {
    "--low-mem": "--mem bounds the memory of steps that run together",
    "--write-graph": "--dry-run prints the plan of every series",
    "--debug": "crash files are always kept; -vv prints every message",
    "--resource-monitor": "provenance.json has time and memory of each step",
    "--track-carbon": "nothing is measured or sent",
    "--notrack": "there is no telemetry",
}

#: Options that ask for something else than this app does, and what there is instead.
REFUSED = {
    "--anat-only": "the anatomy is prepared for a diffusion scan, never alone",
    "--denoise-after-combining": "each run is denoised by itself, before runs are merged: noise "
    "and its map are those of the run as acquired",
    "--recon-only": "run `group`, or qsirecon on the outputs",
}


def translate(argv: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """Put our names in place of other apps' spellings.

    Parameters
    ----------
    argv
        Arguments after the program's name.
    known
        Our options; they are left as they are.

    Returns
    -------
    argv : list of str
        The arguments for our parser.
    notices : list of str
        A sentence for each option that was renamed or has no effect.

    Raises
    ------
    ConfigError
        If an option asks for something that this app does not do.
    """
    translated: list[str] = []
    notices: list[str] = []
    lowers_next = False
    for argument in argv:
        is_lowered, lowers_next = lowers_next, False
        typed, equals, value = argument.partition("=")
        option = typed.replace("_", "-")
        if not typed.startswith("--") or typed in known:
            translated.append(argument.lower() if is_lowered else argument)
        elif option in REFUSED:
            raise ConfigError(f"{typed} is an option of other apps", advice=REFUSED[option])
        elif option in WITHOUT_EFFECT:
            notices.append(f"{typed} has no effect here: {WITHOUT_EFFECT[option]}")
        else:
            ours = SPELLINGS.get(option, option)
            if ours not in known:  # The parser says what is wrong, in the user's own words.
                translated.append(argument)
                continue
            lowers_next = option in _CAPITALS and not equals
            translated.append(ours + equals + (value.lower() if option in _CAPITALS else value))
            notices.append(f"{typed} is {ours} here")
    return translated, notices
