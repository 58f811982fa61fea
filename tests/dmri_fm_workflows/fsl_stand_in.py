"""Stand-in for FSL's topup, eddy and eddy_quad: checks its arguments and files, and notes them.

FSL cannot be had where these tests run. The rules are written down from its documentation
(docs/fsl.md has the links), each as a check below. A broken rule ends the program with exit status
1 and the rule as its message. Otherwise files are written whose names and sizes are the
program's: nothing is corrected.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

#: Arguments of each program, and those that it must have.
TOPUP = {"imain", "datain", "config", "out", "fout", "iout", "nthr"}
EDDY_FILES = {"imain", "mask", "index", "acqp", "bvecs", "bvals", "out"}
EDDY = EDDY_FILES | {
    "topup", "field", "slspec", "mporder", "nthr", "flm", "slm", "fep", "initrand", "interp",
    "nvoxhp", "ff", "dont_sep_offs_move", "dont_peas", "fwhm", "niter", "resamp", "repol",
    "ol_nstd", "ol_nvox", "ol_type", "ol_pos", "ol_sqr", "mb", "mb_offs", "s2v_niter",
    "s2v_lambda", "s2v_interp", "estimate_move_by_susceptibility", "mbs_niter", "mbs_lambda",
    "mbs_ksp", "data_is_shelled", "cnr_maps", "residuals",
}  # fmt: skip
#: Limits of eddy's numbers, as its own check of the arguments has them.
LIMITS = {
    "nvoxhp": (100, 50000), "ff": (1, 10), "fwhm": (0, 20), "ol_nstd": (1.96, np.inf),
    "ol_nvox": (250, np.inf), "mb": (1, 10), "mb_offs": (-1, 1), "mbs_niter": (1, 50),
    "mbs_lambda": (1, 10000), "mbs_ksp": (2, 30), "s2v_niter": (0, 100),
}  # fmt: skip

#: Readout times that eddy takes for real, s.
READOUTS_S = (0.01, 0.2)

QUAD = {"-idx", "-par", "-m", "-b", "-g", "-f", "-s", "-o"}

#: Configurations of topup by the number that the voxels along each axis have to be a multiple of.
CONFIGS = {"b02b0.cnf": 2, "b02b0_1.cnf": 1, "b02b0_2.cnf": 2, "b02b0_4.cnf": 4}


def require(is_met: bool, rule: str) -> None:
    """End with a rule that is broken."""
    if not is_met:
        sys.exit(f"broken rule: {rule}")


def open_image(path: str, ndim: int) -> nib.Nifti1Image:
    require(Path(path).is_file(), f"{path} is a file")
    image = nib.load(path)
    require(image.ndim == ndim, f"{path} is {ndim}-dimensional")
    # x of the acquisition parameters has one meaning only in such an image.
    require(np.linalg.det(image.affine[:3, :3]) < 0, f"{path} is stored radiologically")
    return image


def read_rows(path: str) -> np.ndarray:
    """Read acquisition parameters: unit vector along x or y, and readout time in seconds."""
    rows = np.loadtxt(path, ndmin=2)
    require(rows.shape[1] == 4, f"{path} has four columns")
    require((np.abs(rows[:, :2]).sum(axis=1) == 1).all(), f"{path}: one of x and y is 1 or -1")
    require((rows[:, 2] == 0).all(), f"{path}: z is 0")
    require(((rows[:, 3] > 0) & (rows[:, 3] < 1)).all(), f"{path}: readout times are in seconds")
    return rows


def split(arguments: list[str], known: set[str], needed: set[str]) -> dict[str, str]:
    """Return `--name=value` arguments by name; an empty value for `--name`."""
    given: dict[str, str] = {}
    for argument in arguments:
        require(argument.startswith("--"), f"{argument} starts with two dashes")
        name, _, value = argument[2:].partition("=")
        require(name in known, f"--{name} is an argument of this program")
        require(name not in given, f"--{name} stands once")
        given[name] = value
    require(needed <= set(given), f"there are {needed}")
    return given


def topup(arguments: list[str]) -> None:
    given = split(arguments, TOPUP, {"imain", "datain", "out"})
    image = open_image(given["imain"], 4)
    rows = read_rows(given["datain"])
    require(len(rows) == image.shape[3], "--datain has a row for every volume of --imain")
    require(len({tuple(r) for r in rows}) > 1, "--datain has two different rows or more")
    require(given["config"] in CONFIGS, "--config is one of FSL's")
    factor = CONFIGS[given["config"]]
    require(all(n % factor == 0 for n in image.shape[:3]), "--config fits the size of the image")
    first = nib.Nifti1Image(np.zeros(image.shape[:3], np.float32), image.affine)
    nib.save(first, f"{given['out']}_fieldcoef.nii.gz")
    np.savetxt(f"{given['out']}_movpar.txt", np.zeros((image.shape[3], 6)))
    np.savetxt(f"{given['out']}_rows_of_stand_in.txt", rows)
    # One voxel of it differs from the others, so that a change of storage shows.
    field = np.zeros(image.shape[:3], np.float32)
    field[0, 1, 1] = 50.0
    nib.save(nib.Nifti1Image(field, image.affine), given["fout"])
    nib.save(image, given["iout"])


def eddy(arguments: list[str], *, is_cuda: bool, name: str) -> None:
    given = split(arguments, EDDY, EDDY_FILES)
    image, mask = open_image(given["imain"], 4), open_image(given["mask"], 3)
    n_volumes, n_slices = image.shape[3], image.shape[2]
    require(mask.shape == image.shape[:3], "--mask is on the grid of --imain")
    require(np.allclose(mask.affine, image.affine), "--mask lies where --imain does")
    rows = read_rows(given["acqp"])
    low, high = READOUTS_S
    require(((rows[:, 3] >= low) & (rows[:, 3] <= high)).all(), "readouts are 0.01 to 0.2 s")
    index = np.loadtxt(given["index"], ndmin=1)
    require(index.shape == (n_volumes,), "--index has a number for every volume")
    require(set(index) <= set(range(1, len(rows) + 1)), "--index counts rows of --acqp from 1")
    encodings = np.loadtxt(os.environ["FSL_STAND_IN_ENCODINGS"], ndmin=2)
    of_volumes = rows[index.astype(int) - 1]
    require(np.allclose(of_volumes, encodings), "--index names each volume's own phase encoding")
    require(np.loadtxt(given["bvals"]).shape == (n_volumes,), "--bvals has one for every volume")
    bvecs = np.loadtxt(given["bvecs"])
    require(bvecs.shape == (3, n_volumes), "--bvecs has three rows")
    np.savetxt(Path(os.environ["FSL_STAND_IN_LOG"]).with_name("bvecs_of_eddy.txt"), bvecs)
    require(not {"topup", "field"} <= set(given), "--topup and --field exclude each other")
    if base := given.get("topup"):
        open_image(f"{base}_fieldcoef.nii.gz", 3)
        require(Path(f"{base}_movpar.txt").is_file(), "--topup is the --out of topup")
        n_positions = len(np.loadtxt(f"{base}_movpar.txt", ndmin=2))
        require(index.max() <= n_positions, "--index counts positions of topup as well")
        given_to_topup = np.loadtxt(f"{base}_rows_of_stand_in.txt", ndmin=2)
        require(np.array_equal(rows, given_to_topup), "--acqp is the --datain of topup")
    if field := given.get("field"):
        require(not field.endswith((".nii", ".gz")), "--field has no extension")
        endings = [e for e in (".nii.gz", ".nii") if Path(f"{field}{e}").is_file()]
        require(len(endings) == 1, "--field is one image")
        hz = open_image(field + endings[0], 3)
        require(hz.shape == image.shape[:3], "--field is on the grid of --imain")
    require(given.get("nthr", "1") == "1" or not is_cuda, "builds for GPUs take one thread")
    require("nthr" not in given or name != "eddy_openmp", "--nthr is of newer versions")
    require(given.get("resamp", "jac") == "jac", "least squares merges volumes")
    if "mporder" in given:
        require(is_cuda, "--mporder is for builds for GPUs")
        require("slspec" in given, "--mporder needs the order of slices")
    require(not {"mb", "slspec"} <= set(given), "--mb, --slspec and --json exclude each other")
    require("mb" in given or "mb_offs" not in given, "--mb_offs goes with --mb")
    for key, (low, high) in LIMITS.items():
        values = [float(v) for v in given[key].split(",")] if key in given else []
        require(all(low <= v <= high for v in values), f"--{key} is {low} to {high}")
    factor, offset = int(given.get("mb", 1)), int(given.get("mb_offs", 0))
    require((n_slices + abs(offset)) % factor == 0, "--mb divides the slices and --mb_offs")
    require(factor > 1 or offset == 0, "--mb_offs is 0 with --mb=1")
    if "slspec" in given:
        groups = np.loadtxt(given["slspec"], ndmin=2)
        every = sorted(groups.ravel())
        require(every == list(range(n_slices)), "--slspec has every slice once, from 0")
        require(int(given.get("mporder", 0)) < len(groups), "--mporder is below the rows")
        factor = groups.shape[1]
    if given.get("ol_type") in ("gw", "both"):
        require(factor > 1, "--ol_type indicating mb-groups needs an mb structure")
    for key in ("s2v_niter", "s2v_lambda", "s2v_interp"):
        require(key not in given or "mporder" in given, f"--{key} goes with --mporder")
    for key in ("ol_nstd", "ol_nvox", "ol_type", "ol_pos", "ol_sqr"):
        require(key not in given or "repol" in given, f"--{key} goes with --repol")
    if "estimate_move_by_susceptibility" in given:
        require({"topup", "field"} & set(given) != set(), "a field can change that is there")
    if "fwhm" in given and "," in given["fwhm"]:
        n = len(given["fwhm"].split(","))
        require(n == int(given.get("niter", 5)), "--fwhm has a width for every iteration")
    nib.save(image, f"{given['out']}.nii.gz")
    stem = f"{given['out']}.eddy_"
    np.savetxt(f"{stem}rotated_bvecs", bvecs)
    np.savetxt(f"{stem}parameters", np.zeros((n_volumes, 16)))
    np.savetxt(f"{stem}movement_rms", np.zeros((n_volumes, 2)))
    outliers = np.zeros((n_volumes, n_slices), dtype=int)
    for name_of_map in ("outlier_map", "outlier_n_stdev_map"):
        np.savetxt(f"{stem}{name_of_map}", outliers, header="map", comments="", fmt="%d")
    if "cnr_maps" in given:
        nib.save(mask, f"{stem}cnr_maps.nii.gz")


def eddy_quad(arguments: list[str]) -> None:
    base, rest = arguments[0], arguments[1:]
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    require(set(given) <= QUAD, "arguments are eddy_quad's")
    require({"-idx", "-par", "-m", "-b"} <= set(given), "index, parameters, mask and b-values")
    needed = ("parameters", "movement_rms", "outlier_map", "outlier_n_stdev_map")
    for ending in (".nii.gz", *(f".eddy_{name}" for name in needed)):
        require(Path(base + ending).is_file(), f"eddy wrote {ending}")
    for flag in given.keys() - {"-o"}:
        require(Path(given[flag]).is_file(), f"{flag} is a file")
    require(not Path(given["-o"]).exists(), "the folder of -o is new")
    Path(given["-o"]).mkdir()
    bvals = np.loadtxt(given["-b"])
    shells = sorted({int(round(b, -2)) for b in bvals if b > 100})
    has_cnr, n = Path(f"{base}.eddy_cnr_maps.nii.gz").is_file(), len(shells)
    # -1 stands for what was not measured; of the field it is the only number of a list.
    measures = {
        "data_unique_bvals": shells, "qc_mot_abs": 0.5, "qc_mot_rel": 0.25,
        "qc_ol_flag": True, "qc_outliers_tot": 1.5, "qc_outliers_b": [2.0] * n,
        "qc_field_flag": "-f" in given, "qc_vox_displ_std": 0.75 if "-f" in given else [-1.0],
        "qc_cnr_flag": has_cnr, "qc_cnr_avg": [20.0] + [3.0] * n if has_cnr else [-1.0] * (1 + n),
    }  # fmt: skip
    Path(given["-o"], "qc.json").write_text(json.dumps(measures), encoding="utf-8")


def main() -> None:
    name, *arguments = sys.argv[1:]
    if arguments == ["--help"]:
        print("" if name == "eddy_openmp" else "\t--nthr\tnumber of threads")
        sys.exit(1)
    with Path(os.environ["FSL_STAND_IN_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps([name, os.environ.get("OMP_NUM_THREADS"), *arguments]) + "\n")
    if name == "topup":
        topup(arguments)
    elif name == "eddy_quad":
        eddy_quad(arguments)
    else:
        eddy(arguments, is_cuda=name.startswith("eddy_cuda"), name=name)


if __name__ == "__main__":
    main()
