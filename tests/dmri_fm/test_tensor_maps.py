from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.tensor_maps import SCALARS, TensorMaps, decompose_tensors
from dmri_fm_workflows.outputs.sidecars import image_sidecar

UPPER = np.triu_indices(3)


def to_elements(matrices: np.ndarray) -> np.ndarray:
    return matrices[..., UPPER[0], UPPER[1]]


def draw_matrices(rng: np.random.Generator, n: int) -> np.ndarray:
    factor = rng.normal(size=(n, 3, 3))
    return factor + factor.transpose(0, 2, 1)


def test_decomposition_agrees_with_lapack() -> None:
    rng = np.random.default_rng(0)
    matrices = draw_matrices(rng, 2000)
    matrices[0] = np.eye(3)
    matrices[1] = 0.0
    matrices[2] = np.diag([1.0, 1.0, 5.0])
    matrices[3] = np.diag([2.0, 7.0, 7.0])
    values, first = decompose_tensors(to_elements(matrices))
    expected, vectors = np.linalg.eigh(matrices)
    np.testing.assert_allclose(values, expected[:, ::-1], atol=1e-12)
    # Near-degenerate pairs leave the axis undetermined: compare where a gap exists.
    gap = expected[:, 2] - expected[:, 1] > 1e-3
    cosine = np.abs(np.einsum("ni,ni->n", first, vectors[:, :, 2]))
    np.testing.assert_allclose(cosine[gap], 1.0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_decomposition_does_not_depend_on_scale(scale: float) -> None:
    matrices = draw_matrices(np.random.default_rng(1), 50)
    values, _ = decompose_tensors(scale * to_elements(matrices))
    np.testing.assert_allclose(
        values, scale * np.linalg.eigvalsh(matrices)[:, ::-1], atol=1e-12 * scale
    )


def test_scalars_of_known_tensors() -> None:
    tensors = np.zeros((3, 1, 1, 6))
    tensors[0, 0, 0, [0, 3, 5]] = 1e-3
    tensors[1, 0, 0, [0, 3, 5]] = [1.7e-3, 0.2e-3, 0.2e-3]
    tensors[2, 0, 0, 5] = 2e-3
    maps = TensorMaps.from_tensor(tensors, np.ones((3, 1, 1)), affine=np.eye(4), model="tensor")
    # FA of (1.7, .2, .2) is sqrt(((1.5)^2 + 1.5^2) / 2 / (1.7^2 + 2 * .2^2)) = 0.87038.
    expected_fa = [0.0, 1.5 / np.sqrt(1.7**2 + 2 * 0.2**2), 1.0]
    np.testing.assert_allclose(maps.fa.ravel(), expected_fa, atol=1e-6)
    np.testing.assert_allclose(maps.md.ravel(), [1e-3, 0.7e-3, 2e-3 / 3], rtol=1e-6)
    np.testing.assert_allclose(maps.ad.ravel(), [1e-3, 1.7e-3, 2e-3], rtol=1e-6)
    np.testing.assert_allclose(maps.rd.ravel(), [1e-3, 0.2e-3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(np.abs(maps.v1[1, 0, 0]), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.abs(maps.v1[2, 0, 0]), [0, 0, 1], atol=1e-6)


def test_rotated_tensor_has_rotated_axis_and_equal_scalars() -> None:
    rng = np.random.default_rng(2)
    factor = rng.normal(0, 0.03, (40, 3, 3))
    matrices = factor @ factor.transpose(0, 2, 1)
    rotation = Rotation.random(random_state=rng).as_matrix()
    turned = rotation @ matrices @ rotation.T
    plain, rotated = (
        TensorMaps.from_tensor(
            to_elements(m).reshape(40, 1, 1, 6),
            np.ones((40, 1, 1)),
            affine=np.eye(4),
            model="tensor",
        )
        for m in (matrices, turned)
    )
    for name, array in plain.scalars.items():
        np.testing.assert_allclose(rotated.scalars[name], array, rtol=1e-4, atol=1e-9)
    cosine = np.abs(np.einsum("xyzi,xyzi->xyz", rotated.v1, plain.v1 @ rotation.T))
    np.testing.assert_allclose(cosine, 1.0, atol=1e-4)


def test_maps_hold_no_nan_and_nothing_outside_the_mask() -> None:
    rng = np.random.default_rng(3)
    tensors = rng.normal(0, 1e-3, (4, 4, 4, 6))
    tensors[0, 0, 0] = np.nan
    tensors[0, 0, 1] = np.inf
    tensors[0, 1, 0] = 0.0
    mask = rng.uniform(size=(4, 4, 4)) > 0.4
    mask[0] = True
    maps = TensorMaps.from_tensor(tensors, mask, affine=np.eye(4), model="tensorrefiner")
    for array in (maps.diffusivity, maps.v1, *maps.scalars.values()):
        assert np.isfinite(array).all()
        assert not array[~mask].any()
    assert maps.fa.min() >= 0
    assert maps.fa.max() <= 1
    assert (maps.ad + 1e-12 >= maps.md).all()
    assert decompose_tensors(maps.diffusivity[mask])[0].min() < 0, "stays as it was estimated"


def test_save_and_read_back(tmp_path) -> None:
    rng = np.random.default_rng(4)
    affine = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -5], [0, 0, 3, 7], [0, 0, 0, 1]])
    mask = np.ones((3, 4, 5), dtype=bool)
    maps = TensorMaps.from_tensor(
        rng.uniform(0, 1e-3, (3, 4, 5, 6)),
        mask,
        affine=affine,
        model="tensor",
        s0=np.full((3, 4, 5), 7.0),
        metadata={"Volumes": [0, 1]},
    )
    maps = replace(maps, std={"fa": np.full((3, 4, 5), 0.1, dtype=np.float32)})
    paths = maps.save(tmp_path / "dwi" / "sub-01_space-ACPC")
    assert paths["fa"].name == "sub-01_space-ACPC_model-tensor_param-fa_dwimap.nii.gz"
    assert set(paths) == {"diffusivity", "v1", "s0", *SCALARS, "fa_std"}
    for name, array in {**maps.scalars, "diffusivity": maps.diffusivity}.items():
        image = nib.load(paths[name])
        np.testing.assert_array_equal(np.asarray(image.dataobj), array)
        np.testing.assert_allclose(image.affine, affine)
    sidecars = {
        name: json.loads(path.with_name(path.name.removesuffix(".nii.gz") + ".json").read_text())
        for name, path in paths.items()
    }
    assert all(s["Model"]["Name"] == "Diffusion tensor" for s in sidecars.values())
    assert sidecars["v1"]["OrientationEncoding"]["Type"] == "unit3vector"


@pytest.mark.parametrize("model", ["tensor", "tensorrefiner"])
def test_files_of_the_library_say_what_those_of_the_app_say(tmp_path, model: str) -> None:
    """Units, layout and model of each map are those of the app's catalogue."""
    image = np.ones((2, 2, 2), dtype=np.float32)
    maps = TensorMaps.from_tensor(
        np.ones((2, 2, 2, 6)),
        image,
        affine=np.eye(4),
        model=model,
        s0=image if model == "tensor" else None,
        metadata={"Volumes": [0, 1]},
    )
    if model == "tensorrefiner":
        maps = maps.with_uncertainty(std={"fa": image, "md": image}, ood_percentile=image)
    paths = maps.save(tmp_path / "sub-01")
    paths.pop("v1")
    for name, path in paths.items():
        found = json.loads(path.with_name(path.name.removesuffix(".nii.gz") + ".json").read_text())
        app = image_sidecar(name, model=model, space="ACPC")
        assert found["Model"].pop("Parameters") == app["Model"].pop("Parameters") | {
            "Volumes": [0, 1]
        }
        for key in ("Units", "SkullStripped", "OrientationEncoding", "TensorElements", "Model"):
            assert found.get(key) == app.get(key), f"{name}: {key}"


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(ImageError, match=r"tensor image of shape \(2, 2, 2, 6\)"):
        TensorMaps.from_tensor(
            np.zeros((2, 2, 2, 6)), np.ones((2, 2, 3)), affine=np.eye(4), model="tensor"
        )
    maps = TensorMaps.from_tensor(
        np.zeros((2, 2, 2, 6)), np.ones((2, 2, 2)), affine=np.eye(4), model="tensor"
    )
    thin, fitting = np.zeros((2, 2, 1)), np.zeros((2, 2, 2))
    for std, ood in (({"fa": thin}, fitting), ({"fa": fitting}, thin)):
        with pytest.raises(ImageError, match="unlike shapes"):
            maps.with_uncertainty(std=std, ood_percentile=ood)
