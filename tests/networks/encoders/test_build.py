import pytest
import torch
from torch import nn

from medi_monai.networks import Encoder, build_encoder
from medi_monai.networks.encoders import ENCODERS, EmbeddedEncoder, ModuleEncoder, TorchScriptEncoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed


@pytest.fixture
def script(tmp_path):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.jit.save(torch.jit.script(network), tmp_path / "mine.ts")
    return tmp_path / "mine.ts"


def test_names_paths_mappings_and_encoders_are_built(script):
    assert isinstance(build_encoder("embedded"), EmbeddedEncoder)
    assert isinstance(build_encoder({"name": "embedded"}), EmbeddedEncoder)
    for spec in (script, str(script), {"name": script}, {"name": str(script), "image_size": 32}):
        assert isinstance(build_encoder(spec), TorchScriptEncoder)
    assert build_encoder({"name": str(script), "image_size": 32}).image_size == 32
    own = ModuleEncoder(nn.Flatten(), "own", 4)
    assert build_encoder(own) is own


def test_every_known_name_is_there():
    assert list(ENCODERS) == ["embedded", "efficientnet_lite0", "uni", "uni2_h", "virchow2", "h_optimus_0", "inception"]
    assert issubclass(EmbeddedEncoder, Encoder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("embeded", "unknown encoder 'embeded': did you mean 'embedded'"),
        ("virchow", r"did you mean 'virchow2'.*TorchScript file \(.pt, .ts\), or timm:<model>"),
        ("net.onnx", "unknown encoder 'net.onnx'"),
        ("net.pt", "no TorchScript file at net.pt"),
        ({"image_size": 3}, "needs a name"),
        ({"name": "embedded", "size": 3}, "unknown setting of the encoder 'embedded' 'size'"),
        ({"name": "inception", "weight": "x"}, "did you mean 'weights'"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_error(spec, message):
    with pytest.raises(InputError, match=message):
        build_encoder(spec)


def test_further_encoders_are_built_by_name_and_named_among_what_is_known():
    own = ModuleEncoder(nn.Flatten(), "own", 4)
    assert build_encoder("clip", more={"clip": lambda: own}) is own
    assert isinstance(build_encoder("embedded", more={"clip": lambda: own}), EmbeddedEncoder)
    for spec in ("clp", {"size": 3}):
        with pytest.raises(InputError, match="Known: '?clip'?, '?embedded'?,") as caught:
            build_encoder(spec, more={"clip": lambda: own})
    assert "clip" not in ENCODERS and "clip" in str(caught.value)
    with pytest.raises(InputError, match="unknown setting of the encoder 'clip' 'weights'"):
        build_encoder({"name": "clip", "weights": "x"}, more={"clip": lambda: own})


@pytest.mark.skipif(is_installed("timm"), reason="timm is installed")
@pytest.mark.parametrize("spec", ["uni", "timm:resnet18", {"name": "virchow2", "weights": "virchow2.bin"}])
def test_models_of_timm_reach_timm(spec):
    with pytest.raises(InputError, match="timm is needed for the encoder"):
        build_encoder(spec)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(InputError, match=f"the device '{device}' cannot be used"):
        build_encoder("embedded", device)
