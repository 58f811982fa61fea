"""The registry: every model by name, of one family each."""

import pytest

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.identity import IDENTITIES, identity
from dmri_fm.registry import (
    MODELS,
    feature_grid,
    find_model,
    load_encoder,
    load_tensor_network,
    load_weights,
)

ENCODERS = [name for name in MODELS if identity(name).family == "encoder"]


def test_registry():
    assert {"tensor-refiner", "qcg-dti-paper", "drope", "drope-paper"} <= set(MODELS)
    assert find_model("drope")[:2] == (SMALL, Drope)
    with pytest.raises(ConfigError, match="unknown model"):
        find_model("resnet")
    with pytest.raises(ConfigError, match="unknown network 'tensor'"):
        find_model("tensor")
    with pytest.raises(WeightsError, match="no weights of 'drope-paper' ship"):
        load_weights("drope-paper")


def test_families_are_kept_apart():
    with pytest.raises(ConfigError, match="no encoder"):
        load_encoder("tensor-refiner")
    with pytest.raises(ConfigError, match="no tensor network"):
        load_tensor_network("drope")
    with pytest.raises(ConfigError, match="no encoder") as caught:
        feature_grid("qcg-dti-paper")
    assert "drope-paper" in str(caught.value)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_grid_of_an_encoder_is_that_of_its_configuration(name):
    config = find_model(name).config
    assert feature_grid(name).shape == getattr(config, "grid_shape", config.grid.shape)


@pytest.mark.parametrize("name", [n for n, m in IDENTITIES.items() if m.is_packaged])
def test_packaged_models_keep_what_their_records_promise(name):
    record = identity(name)
    if record.family == "encoder":
        encoder = load_encoder(name)
        assert (encoder.reference is not None) == record.has_ood
    else:
        network = load_tensor_network(name)
        assert network.has_intervals == record.has_intervals
        assert network.has_ood == record.has_ood
