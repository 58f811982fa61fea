"""Published settings of fine-tuning, as presets.

Table 6 of Kung et al. 2026 (https://doi.org/10.48550/arXiv.2603.25977), task by task: AdamW with
momenta 0.9 and 0.999, batch 6; learning rate and weight decay "constant" or "cosine" from a start
to a final value. The table does not say: the width of the MLP head, its learning rate (here: that
of the encoder), which layers have LoRA (here: the attention of the last block, since the text
says that the last encoder layer is tuned), and how the loss of MCI is weighted (here: both
classes alike).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.finetune_network import Tuning
from dmri_fm_lab.prediction.fold_training import FoldSettings
from dmri_fm_lab.scan_tables import listed


class Preset(NamedTuple):
    """What is trained, and how."""

    tuning: Tuning
    settings: FoldSettings

    def replaced(self, **changes: Any) -> Preset:
        """Return the preset with other values of some fields; None changes nothing."""
        given = {k: v for k, v in changes.items() if v is not None}
        own = {f.name for f in fields(Tuning)}
        if unknown := given.keys() - own - {f.name for f in fields(FoldSettings)}:
            raise ConfigError(
                f"no setting {listed(sorted(unknown))}",
                expected=", ".join(f.name for f in (*fields(Tuning), *fields(FoldSettings))),
            )
        return Preset(
            replace(self.tuning, **{k: v for k, v in given.items() if k in own}),
            replace(self.settings, **{k: v for k, v in given.items() if k not in own}),
        )


_LORA = Tuning(mode="lora", blocks=1, lora_rank=12, lora_alpha=12, head="mlp")

#: Presets by name. "small" is ours, for cohorts of tens to hundreds: published rates move the
#: weights too little in the few steps that such a cohort gives.
PRESETS: dict[str, Preset] = {
    "small": Preset(Tuning(), FoldSettings()),
    "age": Preset(
        Tuning(),
        FoldSettings(learning_rate=5e-5, final_learning_rate=5e-5, n_draws=0),
    ),
    "sex": Preset(
        Tuning(),
        FoldSettings(learning_rate=1e-5, final_learning_rate=1e-6, n_draws=0),
    ),
    "mci": Preset(
        _LORA,
        FoldSettings(
            learning_rate=5e-5,
            final_learning_rate=5e-5,
            weight_decay=0.05,
            final_weight_decay=0.05,
            is_weighted=True,
            n_draws=0,
        ),
    ),
    "adas": Preset(
        _LORA,
        FoldSettings(
            epochs=20,
            learning_rate=5e-5,
            final_learning_rate=1e-6,
            weight_decay=0.05,
            final_weight_decay=0.01,
            n_draws=0,
        ),
    ),
}


def find_preset(name: str) -> Preset:
    """Return a preset; ConfigError if there is none of that name."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}", expected=" or ".join(PRESETS))
    return PRESETS[name]
