import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")

from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.prepare_batch import DiffusionPrepareBatch
from medi_monai.networks.spaces import PixelSpace
from medi_monai.networks.text import CaptionDropout, CaptionSchema, TextDiffusionUNet, drop_captions, load_text_encoder
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, write_json


@pytest.fixture(scope="module")
def schema(clip_folder):
    return CaptionSchema(load_text_encoder(clip_folder, max_length=16))


def test_rows_are_read_one_by_one_whatever_else_the_table_has(schema):
    table = pd.DataFrame(
        {"sex": [1, 2, 3, 4], "caption": ["a man", "a woman", "a man", "of 63 years"]}, index=[9, 2, 2, 0]
    )
    codes = schema.encode(table)
    by_hand = torch.cat([schema.text_encoder.tokenize([caption]) for caption in table["caption"]])
    assert torch.equal(codes, by_hand) and codes.shape == (4, 16)
    assert torch.equal(schema.encode({"caption": list(table["caption"])}, unseen="unknown"), by_hand)


@pytest.mark.parametrize("missing", [None, math.nan, "", pd.NA])
def test_a_missing_caption_is_null(schema, missing):
    table = pd.DataFrame({"caption": pd.Series(["a man", missing], dtype=object)})
    assert torch.equal(schema.encode(table)[1:], schema.null_codes(1))
    assert torch.equal(schema.encode({"caption": ["a man", missing]}), schema.encode(table))


def test_strings_of_pandas_are_read_as_well(schema):
    table = pd.DataFrame({"caption": pd.Series(["a man", None], dtype="str")})
    assert torch.equal(schema.encode(table), schema.encode({"caption": ["a man", ""]}))


def test_absent_captions_are_an_error_or_null(schema):
    table = pd.DataFrame({"captoin": ["a man", "a woman"]})
    assert torch.equal(schema.encode(table, absent="null"), schema.null_codes(2))
    with pytest.raises(InputError, match="'caption'.*'captoin'"):
        schema.encode(table)
    with pytest.raises(InputError, match="choice of `unseen`"):
        schema.encode(table, unseen="null")
    assert schema.encode(pd.DataFrame({"caption": pd.Series([], dtype=object)})).shape == (0, 16)


def test_it_has_what_plans_and_generators_ask_of_a_metadata_schema(schema):
    assert schema.names == ("caption",) and schema.label.name == "caption" and schema.attributes == ()
    assert [column.name for column in schema.columns] == ["caption"]


def test_it_survives_json_and_a_move_of_its_folder(clip_folder, tmp_path, schema):
    shutil.copytree(clip_folder, tmp_path / "one" / "clip")
    own = CaptionSchema(load_text_encoder(tmp_path / "one" / "clip", 16, "truncate", False))
    own.save(tmp_path / "one" / "run" / "schema.json")
    (tmp_path / "one").rename(tmp_path / "two")
    again = CaptionSchema.load(tmp_path / "two" / "run" / "schema.json")
    assert again.digest == own.digest != schema.digest
    assert again.text_encoder.captions.on_long == "truncate" and not again.text_encoder.mask_padding
    shutil.move(tmp_path / "two" / "clip", tmp_path / "clip")
    with pytest.raises(InputError, match="there is no model at"):
        CaptionSchema.load(tmp_path / "two" / "run" / "schema.json")
    assert CaptionSchema.load(tmp_path / "two" / "run" / "schema.json", tmp_path / "clip").digest == own.digest


def test_another_text_model_in_its_place_is_refused(schema, dual_folder, tmp_path):
    schema.save(tmp_path / "schema.json")
    content = read_json(tmp_path / "schema.json")
    write_json(tmp_path / "schema.json", {**content, "max_length": 12})
    with pytest.raises(InputError, match=f"not the one of .*{schema.text_encoder.digest[:12]}"):
        CaptionSchema.load(tmp_path / "schema.json")
    with pytest.raises(InputError, match="not the one of"):
        CaptionSchema.load(tmp_path / "schema.json", dual_folder)


def test_files_that_are_no_schema_of_captions_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no schema"):
        CaptionSchema.load(tmp_path / "schema.json")
    MetadataSchema.from_table(pd.DataFrame({"label": ["x"]}), "label").save(tmp_path / "schema.json")
    with pytest.raises(InputError, match="not a caption schema"):
        CaptionSchema.load(tmp_path / "schema.json")
    write_json(tmp_path / "schema.json", {"kind": "captions", "format": 2})
    with pytest.raises(InputError, match="the format 2, .*reads format 1"):
        CaptionSchema.load(tmp_path / "schema.json")


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_captions_are_dropped_whole_at_their_rate(rate):
    codes = torch.arange(1, 20001)[:, None].repeat(1, 5)
    null = torch.tensor([[0, -1, -2, -3, -4]])
    dropped = drop_captions(codes, null, rate, torch.Generator().manual_seed(3))
    gone = (dropped == null).all(1)
    assert torch.equal(dropped[~gone], codes[~gone])
    # five standard deviations of a binomial draw
    assert abs(gone.double().mean().item() - rate) <= 5 * np.sqrt(rate * (1 - rate) / len(codes))
    again = drop_captions(codes, null[0], rate, torch.Generator().manual_seed(3))
    assert torch.equal(dropped, again) and torch.equal(codes[:, 0], torch.arange(1, 20001))


def test_rates_that_are_no_probability_are_refused():
    with pytest.raises(InputError, match="1.5"):
        drop_captions(torch.zeros(1, 2), torch.zeros(1, 2), 1.5)
    with pytest.raises(InputError, match="-1"):
        CaptionDropout(None, -1)


def test_the_batches_of_a_training_lose_captions_at_the_rate(schema):
    prepare = DiffusionPrepareBatch(
        NoiseSchedule("cosine", 100), space=PixelSpace(1), dropout=CaptionDropout(schema, 0.5), augment=False
    )
    codes = schema.encode({"caption": ["a man", "a woman"] * 200})
    batch = {
        "image": torch.zeros(400, 3, 8, 8, dtype=torch.uint8),
        "conditions": codes,
        "index": torch.arange(400),
    }
    noisy, _, _, arguments = prepare(batch, step=1)
    gone = (arguments["conditions"] == schema.null_codes(1)).all(1)
    assert noisy.shape == (400, 1, 8, 8) and 150 < gone.sum() < 250
    assert torch.equal(arguments["conditions"][~gone], codes[~gone])
    assert torch.equal(prepare(batch)[3]["conditions"], codes)


def test_a_generator_draws_captions_and_encodes_them_once(clip_folder):
    schema = CaptionSchema(load_text_encoder(clip_folder))
    network = TextDiffusionUNet(
        schema.text_encoder,
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 16),
        num_res_blocks=1,
        attention_levels=(False, True),
        num_head_channels=8,
        norm_num_groups=4,
    )
    torch.nn.init.normal_(network.out[2].conv.weight, std=0.1)
    calls = []
    schema.text_encoder.tower.register_forward_pre_hook(lambda *_: calls.append(1))
    generator = ImageGenerator(
        schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=7, guidance_scale=2.0, space=PixelSpace(1)
    )
    rows = pd.DataFrame({"caption": ["a man", "a woman"], "number": [0, 0]})
    images = generator.draw(network.eval(), rows)
    assert images.shape == (2, 16, 16, 3) and (images[..., 0] == images[..., 2]).all() and len(calls) == 1
    assert (generator.draw(network, rows.iloc[1:]) == images[1:]).all()
