"""Schemas in the package are those of the dataclasses, and refuse what is no result."""

import jsonschema
import pytest

from medi_monai.results import plain, read_schema
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.files import SCHEMAS
from medi_monai.runs.result_schemas import RESULTS, result_schema


def test_every_results_file_has_a_schema():
    assert tuple(RESULTS) == SCHEMAS


@pytest.mark.parametrize("name", RESULTS)
def test_files_and_dataclasses_agree(name):
    assert read_schema(name) == result_schema(name), "run python -m medi_monai.runs.result_schemas"


def test_a_part_keeps_to_its_schema_and_nothing_is_added_or_left_out():
    schema = result_schema("probe")
    part = {"$defs": schema["$defs"], **schema["$defs"]["CorrelationSweep"]}
    content = plain(CorrelationSweep((0.0, 1.0)))
    jsonschema.validate(content, part)
    for wrong in ({**content, "more": 1}, {"levels": []}, {**content, "num_test": "many"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, part)
