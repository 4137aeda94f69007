import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from medi_monai.networks.encoders import InceptionEncoder, ModuleEncoder, TimmEncoder, TorchScriptEncoder
from medi_monai.networks.encoders.pretrained import load_weights
from medi_monai.networks.encoders.timm_models import IMAGENET_MEAN, IMAGENET_STD, TIMM_MODELS
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest
from medi_monai.utils.optional import is_installed

SIDE = 16
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, SIDE, SIDE), dtype=np.uint8))
NORMALIZED = (IMAGES / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


class Tokens(nn.Module):
    """Seven tokens of four features: the first class, then two registers, then patches."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 28, SIDE)

    def forward(self, images):
        return self.layer(images).flatten(1).unflatten(1, (7, 4))


class Vector(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def module():
    torch.manual_seed(0)
    network = Vector()
    network(torch.randn(8, 3, SIDE, SIDE))
    return network


def test_vectors_are_those_of_the_frozen_module(module):
    encoder = ModuleEncoder(module, "own", SIDE)
    assert encoder.dim == 6 and not module.training and not any(value.requires_grad for value in module.parameters())
    batch_norm = module[1]
    maps = functional.conv2d(NORMALIZED, module[0].weight, module[0].bias)
    scale = batch_norm.weight / (batch_norm.running_var + batch_norm.eps).sqrt()
    expected = ((maps - batch_norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1)).mean((2, 3)) + batch_norm.bias
    torch.testing.assert_close(encoder(IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(encoder(IMAGES), encoder(IMAGES))


def test_maps_are_averaged():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 5).half()
    encoder = ModuleEncoder(layer, "maps", SIDE, mean=(0, 0, 0), std=(1, 1, 1))
    expected = functional.conv2d(IMAGES / 255, layer.weight, layer.bias).mean((2, 3))
    assert encoder.dim == 4 and layer.weight.dtype == torch.float32
    torch.testing.assert_close(encoder(IMAGES), expected)


@pytest.mark.parametrize(("pool", "dim"), [("cls", 4), ("mean", 4), ("cls+mean", 8)])
def test_tokens_are_pooled_without_registers(pool, dim):
    torch.manual_seed(0)
    module = Tokens()
    encoder = ModuleEncoder(module, "tokens", SIDE, pool=pool, num_prefix_tokens=3)
    tokens = module(NORMALIZED).numpy()
    pooled = {"cls": tokens[:, 0], "mean": (tokens[:, 3] + tokens[:, 4] + tokens[:, 5] + tokens[:, 6]) / 4}
    expected = {"cls+mean": np.hstack([pooled["cls"], pooled["mean"]])}.get(pool, pooled.get(pool))
    assert encoder.dim == dim and encoder.describe()["pool"] == pool
    np.testing.assert_allclose(encoder(IMAGES).numpy(), expected, rtol=1e-5, atol=1e-6)


class Gives(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (Tokens(), {}, "pool is None: tokens"),
        (Tokens(), {"pool": "clss"}, "did you mean 'cls'"),
        (Tokens(), {"pool": "cls", "num_prefix_tokens": 7}, "7 tokens, of which 7 are not patches"),
        (Vector(), {"pool": "cls"}, "pool is 'cls'"),
        (Gives(lambda images: {"x": images}), {}, "returns dict"),
        (Gives(lambda images: images.mean()), {}, r"returns \(\)"),
        (Gives(lambda images: images.flatten()[None].repeat(2, 1)), {}, "for 1 images"),
        (nn.Linear(7, 2), {}, "cannot encode an image of 16 x 16"),
    ],
)
def test_modules_that_give_no_features_are_refused(module, settings, message):
    with pytest.raises(InputError, match=message):
        ModuleEncoder(module, "own", SIDE, **settings)


@pytest.mark.parametrize("freeze", [False, True])
def test_torchscript_gives_what_the_module_gives(module, tmp_path, freeze):
    script = torch.jit.script(module.eval())
    torch.jit.save(torch.jit.freeze(script) if freeze else script, tmp_path / "my net.pt")
    encoder = TorchScriptEncoder(tmp_path / "my net.pt", image_size=SIDE)
    torch.testing.assert_close(encoder(IMAGES), ModuleEncoder(module, "own", SIDE)(IMAGES), rtol=1e-5, atol=1e-6)
    assert encoder.name == "my-net" and encoder.dim == 6
    assert encoder.describe()["weights_sha256"] == file_digest(tmp_path / "my net.pt")


def test_what_is_not_torchscript_is_refused(module, tmp_path):
    with pytest.raises(InputError, match="no TorchScript file at .*absent.pt"):
        TorchScriptEncoder(tmp_path / "absent.pt")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="weights.pt is not TorchScript.*torch.jit.save"):
        TorchScriptEncoder(tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("no")
    with pytest.raises(InputError, match="is not TorchScript"):
        TorchScriptEncoder(tmp_path / "text.pt")


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"epoch": 3, "state_dict": state}])
def test_weights_are_found_in_files_and_folders(module, tmp_path, wrap):
    torch.save(wrap(module.state_dict()), tmp_path / "pytorch_model.bin")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        weights = load_weights(path)
        assert weights.keys() == module.state_dict().keys()
        assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())


def test_safetensors_come_first(module, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    torch.save({}, tmp_path / "pytorch_model.bin")
    safetensors.save_file(module.state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(load_weights(tmp_path)["0.weight"], module.state_dict()["0.weight"])
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="model.safetensors is not a readable weights file"):
        load_weights(tmp_path)


def test_files_without_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="no model.safetensors or pytorch_model.bin in"):
        load_weights(tmp_path)
    with pytest.raises(InputError, match="no weights found at .*absent.bin"):
        load_weights(tmp_path / "absent.bin")
    torch.save({"epoch": 3}, tmp_path / "empty.bin")
    with pytest.raises(InputError, match="holds no weights"):
        load_weights(tmp_path / "empty.bin")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.bin")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_weights(tmp_path / "pickled.bin")


def test_the_published_models_state_their_preprocessing():
    # facts of the model cards, written down a second time
    cards = {
        "uni": ("MahmoodLab/UNI", 1024, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        "uni2_h": ("MahmoodLab/UNI2-h", 1536, "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        "virchow2": ("paige-ai/Virchow2", 2560, "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        "h_optimus_0": (
            "bioptimus/H-optimus-0",
            1536,
            "bicubic",
            (0.707223, 0.578729, 0.703617),
            (0.211883, 0.230117, 0.177517),
        ),
    }
    stated = {
        key: (model.hub, model.dim, model.interpolation, model.mean, model.std) for key, model in TIMM_MODELS.items()
    }
    assert stated == cards
    assert all(model.settings["img_size"] == 224 for model in TIMM_MODELS.values())


@pytest.mark.skipif(is_installed("timm"), reason="timm is installed")
@pytest.mark.parametrize("model", ["uni", "resnet18", "hf-hub:MahmoodLab/UNI"])
def test_without_timm_the_error_names_the_remedy(model):
    with pytest.raises(InputError, match=rf'timm is needed for the encoder {model}.*pip install "medi_monai\[encod'):
        TimmEncoder(model)


@pytest.mark.skipif(is_installed("torch_fidelity"), reason="torch-fidelity is installed")
def test_without_torch_fidelity_the_error_names_the_remedy():
    with pytest.raises(InputError, match=r'torch_fidelity is needed.*pip install "medi_monai\[encoders\]"'):
        InceptionEncoder()


class TestWithTimm:
    @pytest.fixture
    def timm(self):
        return pytest.importorskip("timm")

    @pytest.mark.parametrize("key", TIMM_MODELS)
    def test_published_settings_make_the_published_shapes(self, timm, key):
        from medi_monai.networks.encoders import pretrained

        known, captured = TIMM_MODELS[key], {}

        def create_on_meta(source, pretrained, **settings):
            assert pretrained and source == f"hf-hub:{known.hub}"
            with torch.device("meta"):
                captured["network"] = create(known.architecture, pretrained=False, **settings).eval()
                captured["output"] = captured["network"](torch.zeros(2, 3, 224, 224))
            raise OSError("no network")

        create = timm.create_model
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(timm, "create_model", create_on_meta)
            with pytest.raises(InputError, match=f"timm cannot create hf-hub:{known.hub}.*no network.*as `weights`"):
                pretrained.TimmEncoder(key)
        assert captured["network"].num_prefix_tokens == {"uni": 1, "uni2_h": 9, "virchow2": 5, "h_optimus_0": 5}[key]
        width = captured["output"].shape[-1] * (2 if known.pool == "cls+mean" else 1)
        assert width == known.dim and captured["output"].ndim == (3 if known.pool else 2)
        millions = sum(value.numel() for value in captured["network"].parameters()) / 1e6
        assert round(millions) == {"uni": 303, "uni2_h": 681, "virchow2": 631, "h_optimus_0": 1135}[key]

    def test_local_weights_give_what_the_model_gives(self, timm, tmp_path):
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="", img_size=32).eval()
        torch.save(network.state_dict(), tmp_path / "vit.pt")
        encoder = TimmEncoder(
            "vit_tiny_patch16_224", tmp_path / "vit.pt", pool="mean", image_size=32, global_pool="", img_size=32
        )
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        config = timm.data.resolve_model_data_config(network)
        mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
        with torch.no_grad():
            expected = network((images / 255 - mean) / std)[:, 1:].mean(1)
        torch.testing.assert_close(encoder(images), expected)
        with pytest.raises(InputError, match="does not hold the weights of resnet18"):
            TimmEncoder("resnet18", tmp_path / "vit.pt")
        with pytest.raises(InputError, match="unknown timm model 'resnet_18'"):
            TimmEncoder("resnet_18")


def test_inception_resizes_and_normalizes_as_torch_fidelity_does(tmp_path):
    fidelity = pytest.importorskip("torch_fidelity")

    class Random(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            return None

    torch.manual_seed(0)
    torch.save({}, tmp_path / "none.pth")
    network = Random("random", ["2048"], str(tmp_path / "none.pth"))
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    encoder = InceptionEncoder(tmp_path / "inception.pth")
    assert torch.equal(encoder(IMAGES[:2]), network(IMAGES[:2])[0])
    said = encoder.describe()
    assert (said["dim"], said["image_size"], said["antialias"]) == (2048, 299, False)
    with pytest.raises(InputError, match="Inception weights .*none.pth cannot be loaded"):
        InceptionEncoder(tmp_path / "none.pth")
