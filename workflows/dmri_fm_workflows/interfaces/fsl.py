"""FSL's topup, and what it shares with eddy: command lines and storage of images.

Command lines come from fslpy, FSL's own Python library.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from fsl import wrappers
from fsl.utils.run import run
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from numpy.typing import NDArray

from dmri_fm.errors import DmriError, MissingToolError
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.programs import (
    TOPUP,
    find_program,
    name_topup,
)


def is_mirrored(affine: NDArray[np.float64]) -> bool:
    """Tell an image that FSL mirrors along its first axis: its determinant is positive.

    Whether x of the acquisition parameters means the axis before or after that would have to be
    known: for FSL images are stored with a negative determinant, where both are one.
    """
    return bool(np.linalg.det(affine[:3, :3]) > 0)


def flip_first_axis(
    data: NDArray[Any], affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the same image stored the other way along its first axis, and its affine.

    Examples
    --------
    >>> data, affine = flip_first_axis(np.array([1, 2, 3]), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> data.tolist(), affine[0].tolist()
    ([3, 2, 1], [-2.0, 0.0, 0.0, 4.0])
    """
    turn = np.eye(4)
    turn[0, 0], turn[0, 3] = -1.0, data.shape[0] - 1
    return data[::-1], affine @ turn


def store_for_fsl(path: str | Path, out: Path) -> Path:
    """Store an image as FSL holds it in memory; one that is so already passes unchanged."""
    image = load_image(path)
    if not is_mirrored(image.affine):
        return Path(path)
    return save_image(*flip_first_axis(read_array(image), image.affine), out)


def restore_storage(path: str | Path, like: str | Path, out: Path) -> Path:
    """Store a result of FSL's as the image is that :func:`store_for_fsl` was given."""
    if not is_mirrored(load_image(like).affine):
        return Path(path)
    image = load_image(path)
    return save_image(*flip_first_axis(read_array(image), image.affine), out)


#: Lines of a program's messages that an error repeats, of each of its two streams.
N_LINES = 5


def run_command(command: list[str], folder: Path, *, n_threads: int = 1) -> None:
    """Run one of FSL's programs in a folder.

    Raises
    ------
    DmriError
        With the last lines of the program's output and of its errors, if it fails.
    """
    # topup and eddy share out work among as many threads as OpenMP has.
    env = os.environ | {"OMP_NUM_THREADS": str(n_threads), "FSLOUTPUTTYPE": "NIFTI_GZ"}
    out, err, code = run(
        command, stderr=True, exitcode=True, log={"tee": False}, cwd=folder, env=env
    )
    if code != 0:
        # eddy gives its reasons on the standard output.
        said = " / ".join(
            line for text in (out, err) for line in text.strip().splitlines()[-N_LINES:]
        )
        raise DmriError(
            f"{Path(command[0]).name} ended with exit status {code}: {said or 'no message'}",
            expected="exit status 0",
            advice="try the command by hand, or the built-in engines: --sdc pepolar "
            f"--hmc builtin. It was: {' '.join(command)}",
        )


def takes_threads(program: str) -> bool:
    """Tell whether a program takes its number of threads by `--nthr`, by its own help.

    Newer versions do, and do not look at OMP_NUM_THREADS; older ones refuse the option.
    """
    out, err, _ = run([program, "--help"], stderr=True, exitcode=True, log={"tee": False})
    return "--nthr" in f"{out}{err}"


def build_arguments(
    wrapper: Callable[..., list[str]], *positional: str, **options: str | bool
) -> list[str]:
    """Return the command line of one of fslpy's wrappers, without the program."""
    # Beneath fslpy's machinery for running, a wrapper is a function that makes the command line.
    command: list[str] = inspect.unwrap(wrapper)(*positional, **options)
    return command[1:]


class _TopupInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="b=0 volumes")
    encoding_file = File(exists=True, mandatory=True, desc="phase encoding and readout of each")
    config = traits.Str(mandatory=True, desc="a schedule of FSL's")
    n_threads = traits.Int(1, usedefault=True, nohash=True, desc="threads")


class _TopupOutputSpec(TraitedSpec):
    out_corrected = File(exists=True, desc="corrected volumes")
    out_field = File(exists=True, desc="off-resonance, Hz")
    out_fieldcoef = File(exists=True, desc="coefficients of the field")
    out_movpar = File(exists=True, desc="position of each volume")


class FslProgram(SimpleInterface):
    """Call one of FSL's programs in the node's folder, and name the files that it writes.

    Attributes
    ----------
    programs
        Executables, any of which will do: which there is depends on the version of FSL.
    files
        Name of the file behind each output.
    """

    programs: tuple[str, ...]
    files: ClassVar[Mapping[str, str]]

    def find(self) -> str:
        """Return the path of the program."""
        return find_program(*self.programs)

    def arguments(self, program: str) -> list[str]:
        """Return the command line without the program."""
        raise NotImplementedError

    def _run_interface(self, runtime: Bunch) -> Bunch:
        folder, program = Path(runtime.cwd), self.find()
        command = [program, *self.arguments(program)]
        run_command(command, folder, n_threads=self.inputs.n_threads)
        written = {field: folder / name for field, name in self.files.items()}
        if lacking := [path.name for path in written.values() if not path.exists()]:
            raise DmriError(
                f"{Path(program).name} ended without an error and wrote no {', '.join(lacking)}",
                expected=f"{', '.join(path.name for path in written.values())}",
                advice="try the command by hand, or the built-in engines: --sdc pepolar "
                f"--hmc builtin. It was: {' '.join(command)}",
            )
        self._results |= {field: str(path) for field, path in written.items()}
        return runtime


def choose_topup_config(shape: Sequence[int]) -> str:
    """Return the configuration of topup's that an image of a shape needs.

    The usual one halves the grid, which has to be even along every axis.

    Examples
    --------
    >>> choose_topup_config((96, 96, 60)), choose_topup_config((96, 96, 51))
    ('b02b0.cnf', 'b02b0_1.cnf')
    """
    return "b02b0.cnf" if all(n % 2 == 0 for n in shape[:3]) else "b02b0_1.cnf"


def find_topup_config(name: str) -> str:
    """Return the name of a configuration of topup's for the command line.

    Raises
    ------
    MissingToolError
        If FSLDIR is set and FSL does not have it.
    """
    folder = os.environ.get("FSLDIR")
    if folder and not (path := Path(folder, "etc", "flirtsch", name)).is_file():
        raise MissingToolError(
            f"{path} is missing: topup of this version has no configuration for the grid",
            expected="FSL 6",
            advice="update FSL, or use --sdc pepolar",
        )
    return name


class RunTopup(FslProgram):
    """Estimate the distortion field by FSL's topup."""

    input_spec = _TopupInputSpec
    output_spec = _TopupOutputSpec
    programs = TOPUP
    files: ClassVar[Mapping[str, str]] = {
        "out_corrected": "corrected.nii.gz",
        "out_field": "field.nii.gz",
        "out_fieldcoef": "topup_fieldcoef.nii.gz",
        "out_movpar": "topup_movpar.txt",
    }

    def arguments(self, program: str) -> list[str]:
        """Return the command line without the program."""
        threads = {"nthr": str(self.inputs.n_threads)} if takes_threads(program) else {}
        return build_arguments(
            wrappers.topup,
            self.inputs.in_file,
            self.inputs.encoding_file,
            config=find_topup_config(self.inputs.config),
            out="topup",
            fout="field.nii.gz",
            iout="corrected.nii.gz",
            **threads,
        )


class _TopupResultInputSpec(BaseInterfaceInputSpec):
    corrected_file = File(exists=True, mandatory=True, desc="topup's corrected b=0 volumes")
    field_file = File(exists=True, mandatory=True, desc="topup's field, Hz")
    reference_file = File(exists=True, mandatory=True, desc="a b=0 volume in its own storage")


class _TopupResultOutputSpec(TraitedSpec):
    dwiref_file = File(exists=True, desc="mean of the corrected b=0 volumes")
    field_file = File(exists=True, desc="topup's field, Hz, stored as the series")
    record = traits.Dict(desc="method, for the sidecar")


class CollectTopup(SimpleInterface):
    """Average topup's corrected volumes into the reference, stored as the series is."""

    input_spec = _TopupResultInputSpec
    output_spec = _TopupResultOutputSpec

    def _run_interface(self, runtime: Bunch) -> Bunch:
        folder, like = Path(runtime.cwd), self.inputs.reference_file
        corrected = restore_storage(self.inputs.corrected_file, like, folder / "corrected.nii.gz")
        field = restore_storage(self.inputs.field_file, like, folder / "field.nii.gz")
        image = load_image(corrected)
        data = read_array(image)
        mean = data.mean(axis=3) if data.ndim == 4 else data
        out = save_image(np.maximum(mean, 0), image.affine, folder / "dwiref.nii.gz")
        self._results |= {"dwiref_file": str(out), "field_file": str(field)}
        self._results["record"] = {"SDCMethod": name_topup()}
        return runtime
