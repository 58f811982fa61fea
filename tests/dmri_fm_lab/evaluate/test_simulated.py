from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.qspace import condition_number
from dmri_fm_lab.evaluate.comparison import Request, compare_methods
from dmri_fm_lab.evaluate.simulated import build_brain, simulated_scan, skare_table


def test_one_brain_is_acquired_at_several_noise_levels(brain, scans) -> None:
    reference = brain.reference()
    assert reference.is_truth
    errors = []
    for dwi in scans:
        rows = compare_methods(dwi, reference, Request(methods=("wls",))).rows
        assert {"tissue", "white", "grey"} <= set(rows["wls"])
        errors.append(rows["wls"]["tissue"]["fa"])
    assert 0 < errors[1] < 0.5 * errors[0]


def test_noise_is_as_asked(brain, scans) -> None:
    loud, quiet = scans
    white = brain.subject.fractions.wm > 0.9
    # Magnitudes: at this SNR the noise of weighted volumes is a little narrower.
    apart = (loud.data - quiet.data)[white].std()
    assert apart == pytest.approx(brain.level / 10, rel=0.1)


def test_regions_follow_the_fractions(brain) -> None:
    regions = brain.reference().regions
    assert regions.tissue.any()
    assert (brain.subject.fractions.csf[regions.tissue] < 0.1).all()
    assert brain.subject.fractions.lesion.max() > 0
    assert brain.truth.mask.shape == brain.subject.shape


def test_a_scan_has_skares_directions_at_a_random_rotation(scans) -> None:
    axes = skare_table(3)
    # The number of a turned set differs from the ideal 1.32: it depends on the frame.
    assert condition_number(axes) < 2.3
    np.testing.assert_allclose(scans[0].gtab.bvecs_ras[2:], axes)
    assert scans[0].gtab.is_b0.tolist() == [True] * 2 + [False] * 6


def test_what_cannot_be_simulated(brain) -> None:
    with pytest.raises(ConfigError, match="SNR"):
        simulated_scan(brain, snr=0)
    with pytest.raises(ConfigError, match="b = 0"):
        build_brain(0, bval=0)


def test_a_newborn_is_small_and_its_white_matter_watery(brain) -> None:
    newborn = build_brain(0, voxel_size_mm=4.0, is_newborn=True)

    def describe(of, edge):
        white = of.subject.fractions.wm > 0.9
        litres = of.subject.fractions.mask.sum() * edge**3 / 1e6
        return litres, of.truth.md[white].mean(), of.truth.fa[white].mean()

    adult_litres, adult_md, adult_fa = describe(brain, 6.0)
    litres, md, fa = describe(newborn, 4.0)
    # The same anatomy, .62 as long.
    assert litres == pytest.approx(adult_litres * 0.62**3, rel=0.1)
    assert 1.2e-3 < md < 1.5e-3
    assert md > 1.3 * adult_md
    assert fa < 0.6 * adult_fa
