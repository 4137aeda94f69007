import pytest
from small_captions import write_captioned

from medi_monai.cohort import Cohort
from medi_monai.cohort.selection import captioned_cohort
from medi_monai.utils.errors import InputError


def test_captioned_rows_of_a_split(tmp_path):
    cohort = write_captioned(tmp_path)
    assert len(captioned_cohort(cohort)) == 14 and len(captioned_cohort(cohort, "val")) == 2
    with pytest.raises(InputError, match="no image in the split .holdout."):
        captioned_cohort(cohort, "holdout")
    with pytest.raises(InputError, match="caption"):
        captioned_cohort(Cohort(cohort.table.drop(columns="caption"), cohort.root))
