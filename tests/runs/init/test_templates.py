import pandas as pd
import pytest

from medi_monai.runs.init.templates import column_pattern


@pytest.mark.parametrize(
    ("cells", "images", "pattern"),
    [
        ({"file": ["a/1.png", "b/2.png"], "n": ["1", "2"]}, ["a/1.png", "b/2.png"], "{file}"),
        ({"id": ["S1", "S2"]}, ["scans/S1.svs", "scans/S2.svs"], "scans/{id}.svs"),
        ({"id": ["S1", "S10"]}, ["scans/S1.svs", "scans/S10.svs"], "scans/{id}.svs"),
        ({"bar": ["T-1-DX1", "T-2-DX1"]}, ["u1/T-1-DX1.abc.svs", "u2/T-2-DX1.def.svs"], "*/{bar}.*.svs"),
        ({"p": ["sub-1", "sub-2"]}, ["sub-1/a/sub-1_T1w.nii.gz", "sub-2/a/sub-2_T1w.nii.gz"], "{p}/a/{p}_T1w.nii.gz"),
        ({"center": ["x", "y"]}, ["S1.svs", "S2.svs"], None),
    ],
)
def test_the_column_that_names_files_is_found(cells, images, pattern):
    found = column_pattern(pd.DataFrame(cells), images)
    assert (None if found is None else found[0]) == pattern
    assert found is None or found[1] == 1
