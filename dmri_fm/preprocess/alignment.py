"""Linear alignment of two images with ANTs, in RAS+ on this side and LPS+ on ANTs' side.

ANTs and ITK place points in LPS+ millimetres, NIfTI in RAS+. :func:`align` is where the two
meet: it takes and returns RAS+ matrices only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform

from dmri_fm.errors import ImageError

#: Reflection that takes RAS+ points to LPS+ points and back.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: Grey levels per image in mutual information.
N_BINS = 32

#: Random seed of ANTs' metric sampling.
SEED = 20

#: Part of the voxels that the metric looks at, on a regular grid.
SAMPLING_RATE = 0.25

#: Environment variable from which ITK takes its number of threads.
ITK_THREADS_VARIABLE = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"


@contextmanager
def one_itk_thread() -> Iterator[None]:
    """Let ITK, and so ANTs, work with one thread: its results then repeat exactly.

    With several threads ITK's sums are rounded in another order each time, and registrations end
    elsewhere: matrices were seen to differ by .3 mm, and by .8 degrees on a slab.

    ITK reads its number of threads once in the life of a process, at its first filter. A program
    that has called ANTs by itself before keeps the number it had then; set
    `ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1` before it starts. Serves as a decorator, too.
    """
    before = os.environ.get(ITK_THREADS_VARIABLE)
    os.environ[ITK_THREADS_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ITK_THREADS_VARIABLE, None)
        else:
            os.environ[ITK_THREADS_VARIABLE] = before


class Level(NamedTuple):
    """One resolution of a registration."""

    shrink: int  # factor by which the images are made smaller
    smoothing_voxels: float  # standard deviation of the smoothing before that
    iterations: int  # largest number of iterations; 0 skips the level


#: Resolutions from coarse to fine.
LEVELS = (Level(4, 2, 200), Level(2, 1, 100), Level(1, 0, 50))


@one_itk_thread()
def align(
    fixed: ArrayLike,
    moving: ArrayLike,
    *,
    fixed_affine: ArrayLike,
    moving_affine: ArrayLike,
    freedom: Literal["rigid", "affine"] = "rigid",
    initial: ArrayLike | None = None,
    metric: Literal["mi", "correlation"] = "mi",
    levels: Sequence[Level] = LEVELS,
    moving_mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Align two images rigidly or affinely with ANTs.

    Parameters
    ----------
    fixed, moving
        Shapes (X, Y, Z) and (U, V, W), any intensity scale.
    fixed_affine, moving_affine
        Shape (4, 4), voxel to RAS+ mm.
    freedom
        "rigid" has six parameters; "affine" runs a rigid stage, then twelve parameters.
    initial
        Pull matrix to start from, shape (4, 4), RAS+ mm; the identity if None.
    metric
        "mi" (Mattes mutual information) across contrasts; "correlation" within one.
    levels
        Resolutions, coarse to fine.
    moving_mask
        Shape (U, V, W): voxels of the moving image that count; None: all of them.

    Returns
    -------
    ndarray
        Pull matrix, shape (4, 4), RAS+ mm: takes a point of the fixed image to the point of the
        moving image that shows the same tissue. The same call returns the same numbers: ITK
        works with one thread, see :func:`one_itk_thread`.

    Raises
    ------
    ImageError
        If an image is not 3-D, is constant, or ANTs gives up.

    Notes
    -----
    Avants et al. 2011, doi:10.1016/j.neuroimage.2010.09.025. A fixed voxel with signal at
    x = 10 mm that is found at x = 13 mm in the moving image gives ``xfm[0, 3] == 3``.
    """
    fixed, moving = (np.asarray(image, dtype=np.float32) for image in (fixed, moving))
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.ndim != 3 or float(np.ptp(image)) == 0.0:
            raise ImageError(
                f"{name} image of shape {image.shape} with values from "
                f"{image.min():g} to {image.max():g} cannot be aligned",
                expected="a 3-D image with contrast",
            )
    # ANTs' convergence test depends on the intensity scale.
    fixed_image = to_ants_image(fixed / np.percentile(np.abs(fixed), 99.5), fixed_affine)
    moving_image = to_ants_image(moving / np.percentile(np.abs(moving), 99.5), moving_affine)
    mask = None
    if moving_mask is not None:
        mask = to_ants_image(np.asarray(moving_mask) > 0, moving_affine).clone("unsigned char")
    return _run_ants(
        fixed_image,
        moving_image,
        freedom=freedom,
        initial=initial,
        metric=metric,
        levels=levels,
        moving_mask=mask,
    )


@one_itk_thread()
def to_ants_image(data: ArrayLike, affine: ArrayLike) -> Any:
    """Wrap an array and its RAS+ affine as an ANTs image.

    Parameters
    ----------
    data
        Shape (X, Y, Z).
    affine
        Shape (4, 4), voxel to RAS+ mm.

    Returns
    -------
    ants.ANTsImage
        float32, its header in LPS+.
    """
    import ants

    lps = RAS_TO_LPS @ np.asarray(affine, dtype=np.float64)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return ants.from_numpy(
        np.ascontiguousarray(data, dtype=np.float32),
        origin=lps[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=lps[:3, :3] / spacing,
    )


def ras_matrix(parameters: ArrayLike, centre: ArrayLike) -> NDArray[np.float64]:
    """Turn the parameters of an ITK affine transform into a RAS+ matrix.

    Parameters
    ----------
    parameters
        Shape (12,): a 3 x 3 matrix by rows, then a translation, LPS+ mm.
    centre
        Shape (3,): the transform's fixed parameters, its centre of rotation, LPS+ mm.

    Returns
    -------
    ndarray
        Shape (4, 4), RAS+ mm; maps points the way the ITK transform does.

    Examples
    --------
    A shift by 3 mm towards the left is +3 along ITK's x and -3 along NIfTI's.

    >>> ras_matrix([1, 0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 0], [0, 0, 0])[0].tolist()
    [1.0, 0.0, 0.0, -3.0]
    """
    numbers = np.asarray(parameters, dtype=np.float64)
    centre = np.asarray(centre, dtype=np.float64)
    lps = np.eye(4)
    lps[:3, :3] = numbers[:9].reshape(3, 3)
    lps[:3, 3] = numbers[9:12] + centre - lps[:3, :3] @ centre
    return np.asarray(RAS_TO_LPS @ lps @ RAS_TO_LPS + 0.0)


def itk_parameters(xfm: ArrayLike) -> NDArray[np.float64]:
    """Return the 12 ITK parameters, LPS+ mm, centre at the origin, of a RAS+ matrix."""
    lps = RAS_TO_LPS @ np.asarray(xfm, dtype=np.float64) @ RAS_TO_LPS
    return np.asarray(np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]]) + 0.0)


def resample_affine(
    moving: ArrayLike,
    xfm: ArrayLike,
    *,
    fixed_affine: ArrayLike,
    moving_affine: ArrayLike,
    shape: Sequence[int],
) -> NDArray[np.float32]:
    """Resample an image linearly onto the fixed grid through a pull matrix.

    Parameters
    ----------
    moving
        Shape (U, V, W).
    xfm
        Shape (4, 4), RAS+ mm, fixed points to moving points.
    fixed_affine, moving_affine
        Shape (4, 4), voxel to RAS+ mm.
    shape
        Shape (X, Y, Z) of the fixed grid.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32; 0 outside the moving image.
    """
    voxels = np.linalg.inv(np.asarray(moving_affine)) @ np.asarray(xfm) @ np.asarray(fixed_affine)
    resampled: NDArray[np.float32] = affine_transform(
        np.asarray(moving, dtype=np.float32),
        voxels[:3, :3],
        voxels[:3, 3],
        output_shape=tuple(shape),
        order=1,
        mode="constant",
        cval=0.0,
    )
    return resampled


def mutual_information(first: ArrayLike, second: ArrayLike) -> float:
    """Return the normalised mutual information of two images on one grid.

    Parameters
    ----------
    first, second
        Same shape. Values beyond the 99.5th percentile share the highest bin.

    Returns
    -------
    float
        2 I(a, b) / (H(a) + H(b)): 0 for independent images, 1 for images that determine
        each other, 0 if both are constant.

    Examples
    --------
    >>> image = np.arange(8.0).reshape(2, 2, 2)
    >>> round(mutual_information(image, -image), 6)
    1.0
    """
    a, b = _binned(first), _binned(second)
    joint = np.bincount(a * N_BINS + b, minlength=N_BINS**2).reshape(N_BINS, N_BINS) / a.size
    h_a, h_b, h_ab = (_entropy(p) for p in (joint.sum(1), joint.sum(0), joint))
    return 2.0 * (h_a + h_b - h_ab) / (h_a + h_b) if h_a + h_b > 0 else 0.0


def _binned(image: ArrayLike) -> NDArray[np.intp]:
    values = np.asarray(image, dtype=np.float64).ravel()
    low, high = values.min(), np.percentile(values, 99.5)
    if high <= low:
        return np.zeros(values.size, dtype=np.intp)
    scaled = np.clip((values - low) / (high - low) * N_BINS, 0, N_BINS - 1)
    return np.asarray(scaled, dtype=np.intp)


def _entropy(p: NDArray[np.float64]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _run_ants(
    fixed: Any,
    moving: Any,
    *,
    freedom: str,
    initial: ArrayLike | None,
    metric: str,
    levels: Sequence[Level],
    moving_mask: Any = None,
) -> NDArray[np.float64]:
    """Call the registration program inside antspyx and read its matrix back."""
    import ants
    from ants.internal import get_lib_fn, get_pointer_string

    # With "--float 0" the program reads the voxels behind the pointers as doubles.
    fixed, moving = fixed.clone("double"), moving.clone("double")
    a, b = get_pointer_string(fixed), get_pointer_string(moving)
    sampling = f"Regular,{SAMPLING_RATE:g}"
    shrink_factors, smoothing_voxels, iterations = zip(*levels, strict=True)
    measure = {
        "mi": f"MI[{a},{b},1,{N_BINS},{sampling}]",
        "correlation": f"GC[{a},{b},1,0,{sampling}]",
    }[metric]
    with tempfile.TemporaryDirectory(prefix="align-") as folder:
        start = "Identity"
        if initial is not None:
            start = str(Path(folder) / "initial.mat")
            transform = ants.create_ants_transform(
                transform_type="AffineTransform",
                dimension=3,
                parameters=itk_parameters(initial).tolist(),
                fixed_parameters=[0.0, 0.0, 0.0],
            )
            ants.write_transform(transform, start)
        arguments = ["--dimensionality", "3", "--float", "0", "--random-seed", str(SEED)]
        counted = "NA" if moving_mask is None else get_pointer_string(moving_mask)
        arguments += ["-r", start, "-z", "1", "-u", "0", "-x", f"[NA,{counted}]"]
        for stage in {"rigid": ("Rigid",), "affine": ("Rigid", "Affine")}[freedom]:
            arguments += ["--metric", measure, "--transform", f"{stage}[0.1]"]
            arguments += ["--convergence", f"[{'x'.join(map(str, iterations))},1e-7,20]"]
            arguments += ["--smoothing-sigmas", "x".join(f"{s:g}" for s in smoothing_voxels)]
            arguments += ["--shrink-factors", "x".join(map(str, shrink_factors))]
        prefix = str(Path(folder) / "out")
        arguments += ["--output", prefix]
        status = get_lib_fn("antsRegistration")(arguments)
        result = Path(prefix + "0GenericAffine.mat")
        if status != 0 or not result.exists():
            raise ImageError(
                f"ANTs could not align the images (status {status})",
                expected="two images of the same head that overlap",
                advice="look at the images; run with `-v` for the messages of ANTs",
            )
        found = ants.read_transform(str(result))
        return ras_matrix(found.parameters, found.fixed_parameters)
