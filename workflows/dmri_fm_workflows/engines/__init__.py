"""Engines of the stages: names, titles and methods sentences, without the code that runs them.

Command line, plan and methods text read them, so nothing here imports nipype. The code of an
engine is the module of its name in the package of its stage, imported when it is asked for.
"""

from dmri_fm_workflows.engines.base import Method
from dmri_fm_workflows.engines.denoise import DENOISE
from dmri_fm_workflows.engines.hmc import HMC
from dmri_fm_workflows.engines.sdc import SDC

__all__ = ["DENOISE", "HMC", "SDC", "Method"]
