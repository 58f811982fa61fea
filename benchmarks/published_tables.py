"""Tables of the publication of QCG-DTI, as printed: Zheng et al. 2025.

https://doi.org/10.1631/FITEE.2400766. Errors are means over subjects, without their deviations:
of the tensor (sum over six elements), FA, MD, AD, RD (1e-3 mm^2/s) and the main axis (degrees),
in all tissue but CSF. DIFFnet estimates no tensor.
"""

from __future__ import annotations

Errors = dict[str, tuple[float | None, ...]]

#: Table 1, HCP, 20 subjects.
FIXED: Errors = {
    "WLS": (0.818, 0.1292, 0.1614, 0.1501, 0.1748, 41.38),
    "DeepDTI": (0.357, 0.0502, 0.0592, 0.0883, 0.0627, 29.17),
    "TransDTI": (0.341, 0.0551, 0.0553, 0.0837, 0.0622, 29.39),
    "DIFFnet": (None, 0.1364, 0.4687, 0.5609, 0.3738, None),
    "FlexDTI": (0.346, 0.0506, 0.0581, 0.0837, 0.0640, 28.92),
    "QCG-DTI": (0.283, 0.0453, 0.0473, 0.0688, 0.0524, 25.79),
}
FLEXIBLE: Errors = {
    "WLS": (0.817, 0.1289, 0.1614, 0.1501, 0.1748, 41.38),
    "DeepDTI": (0.850, 0.1492, 0.1153, 0.1739, 0.1467, 45.37),
    "TransDTI": (0.768, 0.0767, 0.0834, 0.1409, 0.0871, 55.77),
    "DIFFnet": (None, 0.1698, 0.3148, 0.3445, 0.2870, None),
    "FlexDTI": (0.373, 0.0520, 0.0663, 0.0907, 0.0728, 29.33),
    "QCG-DTI": (0.289, 0.0443, 0.0499, 0.0706, 0.0546, 25.67),
}

#: Table 2, dHCP, eight newborns.
NEWBORNS: Errors = {
    "WLS": (1.904, 0.2668, 0.2264, 0.6030, 0.3156, 49.89),
    "DeepDTI": (1.710, 0.1820, 0.3277, 0.5326, 0.3452, 47.62),
    "TransDTI": (0.760, 0.0799, 0.1468, 0.1996, 0.1554, 43.86),
    "DIFFnet": (None, 0.1034, 0.4238, 0.3600, 0.3570, None),
    "FlexDTI": (0.695, 0.0593, 0.1420, 0.1737, 0.1467, 36.40),
    "QCG-DTI": (0.646, 0.0595, 0.1296, 0.1627, 0.1344, 35.72),
}

#: Table 3, three subjects who travelled between scanners.
TRAVELLING: Errors = {
    "WLS": (0.730, 0.1335, 0.1391, 0.1248, 0.1716, 40.73),
    "DeepDTI": (0.394, 0.0573, 0.0626, 0.0952, 0.0629, 33.84),
    "TransDTI": (0.367, 0.0578, 0.0551, 0.0897, 0.0606, 32.12),
    "DIFFnet": (None, 0.2238, 0.3932, 0.3709, 0.3741, None),
    "FlexDTI": (0.402, 0.0592, 0.0644, 0.1021, 0.0690, 32.91),
    "QCG-DTI": (0.362, 0.0536, 0.0601, 0.0887, 0.0626, 33.03),
}

#: Table 4: 1e9 multiply-adds of a block of 64^3 voxels, 1e6 parameters, ms on an A100 GPU.
COST: dict[str, tuple[float | None, float | None, float]] = {
    "WLS": (None, None, 69811.68),
    "DeepDTI": (941.47, 3.59, 253.90),
    "TransDTI": (159.95, 39.08, 205.47),
    "FlexDTI": (60.99, 17.24, 400.50),
    "QCG-DTI": (488.30, 19.28, 524.37),
}

#: Table 5, flexible directions.
ABLATIONS: Errors = {
    "baseline": (0.357, 0.0531, 0.0624, 0.0877, 0.0677, 29.48),
    "no-qcf": (0.326, 0.0509, 0.0513, 0.0790, 0.0568, 29.79),
    "no-strategy": (0.354, 0.0524, 0.0600, 0.0842, 0.0667, 29.61),
    "no-mrd": (0.313, 0.0479, 0.0525, 0.0784, 0.0568, 27.15),
    "whole": (0.289, 0.0443, 0.0499, 0.0706, 0.0546, 25.67),
}
