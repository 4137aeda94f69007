import json

import pytest

from medi_monai.evaluation.alignment.encoders import INDEPENDENT, check_encoder, evaluation_encoder
from medi_monai.networks.encoders import EfficientNetEncoder, EmbeddedEncoder, same_encoder
from medi_monai.utils.errors import InputError


def record(folder, description):
    (folder / "alignment.json").write_text(json.dumps({"consistency_encoder": description}))
    return folder


def test_the_encoder_is_not_that_of_the_loss(tmp_path):
    assert evaluation_encoder(INDEPENDENT, None, 32).name == "embedded"
    assert evaluation_encoder(INDEPENDENT, record(tmp_path, None), 32).name == "embedded"
    clip = {"name": "clip", "weights_sha256": "c0ffee"}
    assert evaluation_encoder(INDEPENDENT, record(tmp_path, clip), 32).name == "embedded"
    # what is asked for is given, even if it took part
    used = record(tmp_path, EmbeddedEncoder().describe())
    assert evaluation_encoder("embedded", used, 32).name == "embedded"


def test_if_the_loss_used_the_embedded_encoder_the_learned_one_measures(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    used = record(tmp_path, EmbeddedEncoder().describe())
    encoder = evaluation_encoder(INDEPENDENT, used / "alignment.json", 32)
    assert (encoder.name, encoder.image_size, encoder.dim) == ("efficientnet_lite0", 64, 320)


def test_without_another_encoder_that_of_the_loss_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(EfficientNetEncoder, "is_installed", staticmethod(lambda: False))
    used = record(tmp_path, EmbeddedEncoder().describe())
    assert same_encoder(evaluation_encoder(INDEPENDENT, used, 32).describe(), EmbeddedEncoder().describe())


def test_an_unknown_encoder_is_refused():
    check_encoder(INDEPENDENT)
    check_encoder({"name": "clip"}, ("clip",))
    with pytest.raises(InputError, match="unknown encoder 'embeded'"):
        check_encoder("embeded")
