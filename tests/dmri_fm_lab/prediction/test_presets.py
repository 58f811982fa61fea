"""Published settings, as Table 6 prints them."""

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.presets import find_preset

#: Task: rates, weight decays, epochs, and whether LoRA is used; batch 6 in all.
TABLE_6 = {
    "age": ((5e-5, 5e-5), (0.01, 0.01), 50, False),
    "sex": ((1e-5, 1e-6), (0.01, 0.01), 50, False),
    "mci": ((5e-5, 5e-5), (0.05, 0.05), 50, True),
    "adas": ((5e-5, 1e-6), (0.05, 0.01), 20, True),
}


@pytest.mark.parametrize("task", TABLE_6)
def test_presets_are_those_of_table_6(task):
    rates, decays, epochs, has_lora = TABLE_6[task]
    tuning, settings = find_preset(task)
    assert (settings.learning_rate, settings.final_learning_rate) == rates
    assert (settings.weight_decay, settings.final_weight_decay) == decays
    assert (settings.epochs, settings.batch) == (epochs, 6)
    assert (tuning.mode == "lora") == has_lora
    assert (tuning.lora_rank, tuning.lora_alpha, tuning.head) == (12, 12, "mlp")
    assert settings.is_weighted == (task == "mci")


def test_a_preset_with_changes():
    changed = find_preset("age").replaced(mode="lora", epochs=3, batch=None)
    assert (changed.tuning.mode, changed.settings.epochs, changed.settings.batch) == ("lora", 3, 6)
    with pytest.raises(ConfigError, match="no setting speed"):
        find_preset("age").replaced(speed=2)
    with pytest.raises(ConfigError, match="no preset 'iq'"):
        find_preset("iq")
