import pickle

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from PIL import Image
from scipy.stats import chisquare, kstest

from medi_monai.utils.errors import InputError, user_error_in
from medi_monai.wsi.color import optical_density
from medi_monai.wsi.normalization import MacenkoTarget, fit_target
from medi_monai.wsi.pixels import gpu_obstacle
from medi_monai.wsi.stain import RUIFROK, full_basis, jitter_stains, macenko_stains
from medi_monai.wsi.transforms import RandStainJitterd, RandSymmetryd, StainNormalized, patch_transforms


def every_transform():
    return [
        RandSymmetryd("image", backend="cpu"),
        RandStainJitterd("image", 0.1, backend="cpu"),
        RandStainJitterd("image", 0.1, basis="macenko", backend="cpu"),
        StainNormalized("image", backend="cpu"),
    ]


def numbered(height=6, width=6):
    """Every pixel another color, so that a permutation of pixels can be read off."""
    return np.arange(3 * height * width, dtype=np.uint8).reshape(3, height, width)


# what goes in and comes out


@pytest.mark.parametrize("number", range(4))
def test_type_shape_and_metadata_are_kept_and_the_input_is_not_changed(demo_patches, number):
    transform = every_transform()[number].set_random_state(1) if number < 3 else every_transform()[number]
    patch = demo_patches[2][0]
    meta = MetaTensor(torch.from_numpy(patch), meta={"slide": "one"})
    before = patch.copy()
    batch = np.stack([patch, demo_patches[5][1]])
    for image in (patch, torch.from_numpy(patch), meta, batch, torch.from_numpy(batch)):
        result = transform({"image": image, "label": 3})
        assert type(result["image"]) is type(image) and result["image"].dtype == image.dtype
        assert result["image"].shape == image.shape and result["label"] == 3
        assert not isinstance(image, MetaTensor) or result["image"].meta["slide"] == "one"
    np.testing.assert_array_equal(patch, before)


def test_a_batch_gets_what_its_images_get_one_by_one(demo_patches):
    batch = np.stack([demo_patches[center][0] for center in range(5)])
    for together, single in zip(every_transform(), every_transform()):
        for transform in (together, single):
            getattr(transform, "set_random_state", lambda seed: None)(7)
        expected = [single({"image": image})["image"] for image in batch]
        np.testing.assert_array_equal(together({"image": batch})["image"], expected)


def test_the_keys_of_an_item_get_the_same(demo_patches):
    patch = demo_patches[0][0]
    for transform in (RandSymmetryd(["a", "b"]), RandStainJitterd(["a", "b"], 0.2)):
        result = transform({"a": patch, "b": patch})
        np.testing.assert_array_equal(result["a"], result["b"])


def test_keys_may_be_missing_only_where_that_is_allowed(demo_patches):
    item = {"image": demo_patches[0][0]}
    assert set(RandSymmetryd(["image", "other"], allow_missing_keys=True)(item)) == {"image"}
    assert RandSymmetryd("other", allow_missing_keys=True)({"x": 1}) == {"x": 1}
    with pytest.raises(KeyError, match="other"):
        RandSymmetryd(["image", "other"])(item)


def test_probability_zero_changes_nothing_and_one_half_changes_half(demo_patches):
    patch = demo_patches[0][0]
    assert RandStainJitterd("image", 0.2, prob=0)({"image": patch})["image"] is patch
    transform = RandStainJitterd("image", 0.2, prob=0.5).set_random_state(0)
    small = np.ascontiguousarray(patch[:, 40:48, 40:48])
    changed = sum(transform({"image": small})["image"] is not small for _ in range(400))
    assert 160 <= changed <= 240


# geometry


def test_all_eight_symmetries_occur_alike_and_are_exact():
    image = numbered()
    known = {}
    for mirrored in (image, image[:, :, ::-1]):
        for turns in range(4):
            known[np.rot90(mirrored, turns, (1, 2)).tobytes()] = len(known)
    assert len(known) == 8
    transform = RandSymmetryd("image", backend="cpu").set_random_state(2)
    counts = np.zeros(8)
    for _ in range(1600):
        counts[known[transform({"image": image})["image"].tobytes()]] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_patches_that_are_not_square_turn_alone_but_not_in_a_batch():
    transform = RandSymmetryd("image", backend="cpu").set_random_state(0)
    shapes = {transform({"image": numbered(4, 6)})["image"].shape for _ in range(50)}
    assert shapes == {(3, 4, 6), (3, 6, 4)}
    batch = np.stack([numbered(4, 6)] * 20)
    with pytest.raises(InputError, match="must be square"):
        transform({"image": batch})


# jitter of the stains


def test_scale_and_shift_are_uniform_and_independent():
    transform = RandStainJitterd("image", 0.2, shift=0.03).set_random_state(11)
    drawn = []
    for _ in range(400):
        transform.randomize(5)
        drawn.extend(np.concatenate(pair) for pair in transform.drawn)
    drawn = np.array(drawn)
    for stain in range(3):
        assert kstest(drawn[:, stain], "uniform", (0.8, 0.4)).pvalue > 1e-3
        assert kstest(drawn[:, 3 + stain], "uniform", (-0.03, 0.06)).pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.09


def test_the_image_is_jittered_as_drawn(demo_patches):
    patch = demo_patches[4][1]
    transform = RandStainJitterd("image", 0.3, 0.05, backend="cpu").set_random_state(5)
    result = transform({"image": patch})["image"]
    np.testing.assert_array_equal(result, jitter_stains(patch, *transform.drawn[0], RUIFROK))

    transform = RandStainJitterd("image", 0.3, 0.05, basis="macenko", backend="cpu").set_random_state(5)
    result = transform({"image": patch})["image"]
    (scale, shift), basis = transform.drawn[0], full_basis(macenko_stains(patch).vectors)
    expected = jitter_stains(patch, [*scale[:2], 1], np.array([*shift[:2], 0]), basis)
    np.testing.assert_array_equal(result, expected)


def test_jitter_in_the_own_basis_leaves_what_is_no_stain(demo_patches):
    patch = demo_patches[1][3]
    transform = RandStainJitterd("image", 0.2, basis="macenko", backend="cpu").set_random_state(8)
    across = full_basis(macenko_stains(patch).vectors)[2]
    before, after = (
        np.tensordot(across, optical_density(image), 1) for image in (patch, transform({"image": patch})["image"])
    )
    # rounding to gray levels remains
    assert np.abs(after - before).mean() < 0.004


def test_no_jitter_is_the_identity(demo_patches, odd_patches):
    for basis in ("ruifrok", "macenko"):
        transform = RandStainJitterd("image", 0, basis=basis, backend="cpu")
        for patch in [demo_patches[3][0], *odd_patches.values()]:
            result = transform({"image": patch})["image"].astype(int)
            assert np.abs(result - patch).max() <= 1


@pytest.mark.filterwarnings("error")
def test_odd_patches_are_jittered_in_the_ruifrok_basis(odd_patches):
    for name, patch in odd_patches.items():
        macenko, ruifrok = (
            RandStainJitterd("image", 0.2, basis=basis, backend="cpu").set_random_state(6)({"image": patch})["image"]
            for basis in ("macenko", "ruifrok")
        )
        np.testing.assert_array_equal(macenko, ruifrok, err_msg=name)
        if name in ("white", "glass"):
            np.testing.assert_array_equal(ruifrok, patch)


def test_real_tiles_are_jittered_within_bounds(real_data):
    for path in sorted((real_data / "hne_tcga" / "tiles").glob("*.png"))[::3]:
        tile = np.ascontiguousarray(np.asarray(Image.open(path).convert("RGB"))[:256, :256].transpose(2, 0, 1))
        glass = optical_density(tile).mean(axis=0) < 0.05
        for basis in ("ruifrok", "macenko"):
            transform = RandStainJitterd("image", 0.2, basis=basis, backend="cpu").set_random_state(9)
            for _ in range(3):
                result = transform({"image": tile})["image"]
                assert result.dtype == np.uint8
                assert 0.2 < np.abs(result.astype(int) - tile).mean() < 45
                np.testing.assert_array_equal(result[:, glass], tile[:, glass])


# normalization


def test_what_cannot_be_normalized_stays_and_is_counted(demo_patches, odd_patches):
    normalize = StainNormalized("image", MacenkoTarget(), backend="cpu")
    good = demo_patches[0][0]
    result = normalize({"image": good})
    assert result["image_normalized"] is True
    np.testing.assert_array_equal(result["image"], MacenkoTarget().normalize(good))
    for patch in odd_patches.values():
        result = normalize({"image": patch})
        assert result["image"] is patch and result["image_normalized"] is False
    mixed = np.stack([good[:, :64, :64], odd_patches["white"], odd_patches["eosin"]])
    result = normalize({"image": mixed})
    assert result["image_normalized"].tolist() == [True, False, False]
    np.testing.assert_array_equal(result["image"][1:], mixed[1:])


def test_the_target_may_be_a_file_or_its_content(tmp_path, demo_patches):
    target = fit_target(demo_patches[6], "reinhard")
    target.save(tmp_path / "target.json")
    expected = StainNormalized("image", target, backend="cpu")({"image": demo_patches[0][0]})["image"]
    for source in (tmp_path / "target.json", target.to_dict()):
        result = StainNormalized("image", source, "reinhard", backend="cpu")({"image": demo_patches[0][0]})
        np.testing.assert_array_equal(result["image"], expected)


# seeds, loaders, configs


def test_a_seed_fixes_all_draws(demo_patches):
    patch = {"image": demo_patches[0][0]}

    def five(seed):
        transforms = patch_transforms(stain_jitter=0.2, backend="cpu", seed=seed)
        return np.stack([transforms(patch)["image"] for _ in range(5)])

    first = five(3)
    np.testing.assert_array_equal(first, five(3))
    assert (first != five(4)).any()
    assert len({image.tobytes() for image in first}) == 5
    again = patch_transforms(stain_jitter=0.2, backend="cpu", seed=4)
    again.set_random_state(seed=12)
    other = Compose(patch_transforms(stain_jitter=0.2, backend="cpu", seed=5).transforms).set_random_state(seed=12)
    np.testing.assert_array_equal(again(patch)["image"], other(patch)["image"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_of_monai_takes_them(demo_patches, odd_patches, num_workers):
    items = [{"image": torch.from_numpy(demo_patches[center][0][:, :64, :64].copy())} for center in (0, 1, 2, 2, 2)]
    items.append({"image": torch.from_numpy(odd_patches["white"])})
    transforms = patch_transforms(normalize="macenko", stain_jitter=0.1, seed=0)
    batches = list(DataLoader(Dataset(items, transforms), batch_size=3, num_workers=num_workers))
    assert [batch["image"].shape for batch in batches] == [(3, 3, 64, 64)] * 2
    assert batches[0]["image"].dtype == torch.uint8
    assert [batch["image_normalized"].tolist() for batch in batches] == [[True] * 3, [True, True, False]]
    # alike going in, unlike coming out: workers draw for themselves
    assert (batches[0]["image"][2] != batches[1]["image"][0]).any()


def test_a_config_names_them(demo_patches):
    config = {
        "transforms": {
            "_target_": "medi_monai.wsi.transforms.patch_transforms",
            "keys": ["image"],
            "stain_jitter": 0.05,
            "stain_basis": "macenko",
            "normalize": "reinhard",
            "target": fit_target(demo_patches[0], "reinhard").to_dict(),
            "backend": "auto",
            "seed": 0,
        }
    }
    transforms = ConfigParser(config).get_parsed_content("transforms")
    names = [type(transform).__name__ for transform in transforms.transforms]
    assert names == ["StainNormalized", "RandStainJitterd", "RandSymmetryd"]
    assert transforms({"image": demo_patches[1][0]})["image"].dtype == np.uint8


def test_the_factory_takes_only_what_is_asked():
    assert [type(t).__name__ for t in patch_transforms().transforms] == ["RandSymmetryd"]
    assert patch_transforms(geometry=False).transforms == ()
    item = {"image": numbered()}
    assert patch_transforms(geometry=False)(item) == item


def test_transforms_travel_to_other_processes(demo_patches):
    transforms = patch_transforms(stain_jitter=0.1, normalize="macenko", backend="cpu", seed=1)
    copy = pickle.loads(pickle.dumps(transforms))
    item = {"image": demo_patches[0][0]}
    np.testing.assert_array_equal(copy(item)["image"], transforms(item)["image"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": "macenco"}, "did you mean 'macenko'"),
        ({"stain_basis": "ruifrock"}, "did you mean 'ruifrok'"),
        ({"backend": "gpus"}, "did you mean 'gpu'"),
        ({"stain_jitter": -0.1}, "scale = -0.1"),
        ({"stain_jitter": 1.1}, "scale = 1.1"),
        ({"stain_jitter": "strong"}, "scale = 'strong'"),
        ({"stain_jitter": float("nan")}, "scale = nan"),
        ({"normalize": "reinhard"}, "needs a target"),
        ({"target": MacenkoTarget()}, "a target needs a normalization"),
        ({"normalize": "reinhard", "target": MacenkoTarget()}, "not for 'reinhard'"),
        ({"normalize": "macenko", "target": "/nowhere/target.json"}, "cannot read /nowhere/target.json"),
    ],
)
def test_mistakes_in_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        patch_transforms(**settings)


def test_further_mistakes_are_named():
    with pytest.raises(InputError, match="prob = 2"):
        RandSymmetryd("image", prob=2)
    with pytest.raises(InputError, match="shift = -1"):
        RandStainJitterd("image", 0.1, shift=-1)
    pair = {"a": np.zeros((2, 3, 8, 8), np.uint8), "b": np.zeros((3, 8, 8), np.uint8)}
    with pytest.raises(InputError, match=r"different numbers of images, \[1, 2\]"):
        RandSymmetryd(["a", "b"])(pair)


def test_a_wrong_patch_is_one_line_through_compose():
    with pytest.raises(RuntimeError) as caught:
        patch_transforms()({"image": np.zeros((3, 8, 8), np.float32)})
    assert isinstance(user_error_in(caught.value), InputError)


@pytest.mark.skipif(not gpu_obstacle(), reason="there is a GPU")
def test_the_gpu_is_refused_where_there_is_none():
    with pytest.raises(InputError, match="the back end 'gpu' cannot be used: .*pip install"):
        patch_transforms(backend="gpu")
