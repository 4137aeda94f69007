import hashlib

import torch

from medi_monai.utils.seeding import generator_from, seed_from


def test_seed_is_the_upper_63_bits_of_the_sha256_of_the_compact_json():
    text = '["demo slide",0,{"center":"Aspen","number":3},["é",0.5]]'
    expected = int(hashlib.sha256(text.encode("utf-8")).hexdigest()[:16], 16) // 2
    assert seed_from("demo slide", 0, {"number": 3, "center": "Aspen"}, ["é", 0.5]) == expected


def test_parts_are_kept_apart_and_types_count():
    seeds = [
        seed_from("ab", "c"),
        seed_from("a", "bc"),
        seed_from("abc"),
        seed_from(1),
        seed_from("1"),
        seed_from([1]),
        seed_from(1, 2),
        seed_from(2, 1),
    ]
    assert len(set(seeds)) == len(seeds)


def test_seeds_fit_a_signed_integer_of_64_bits_and_use_its_range():
    seeds = [seed_from("image", number) for number in range(500)]
    assert min(seeds) >= 0 and max(seeds) < 2**63
    assert max(seeds) > 2**62 and len({seed % 2 for seed in seeds}) == 2


def test_a_generator_depends_on_its_parts_alone():
    torch.manual_seed(1)
    first = torch.randn(5, generator=generator_from("noise", 7))
    torch.manual_seed(2)
    assert torch.equal(first, torch.randn(5, generator=generator_from("noise", 7)))
    assert not torch.equal(first, torch.randn(5, generator=generator_from("noise", 8)))


def test_a_generator_leaves_the_global_one_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    torch.rand(9, generator=generator_from("noise"))
    assert torch.equal(torch.rand(2), expected)
