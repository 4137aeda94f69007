import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medi_monai.runs.sampling.shares import WorkShare, job_folders, run_folders, share_of_folder
from medi_monai.utils.errors import InputError

SMALL = st.integers(1, 7)


@given(st.integers(0, 200), SMALL, SMALL, SMALL)
def test_jobs_and_their_processes_divide_a_plan_without_a_rest(total, jobs, processes, unit):
    positions = np.arange(total)
    owners = np.zeros(total, int)
    for job in range(jobs):
        share = WorkShare.parse(f"{job + 1}/{jobs}", unit)
        inner = sum(share.among(rank, processes).owns(positions).astype(int) for rank in range(processes))
        assert (inner == share.owns(positions)).all() and share.size(total) == share.owns(positions).sum()
        owners += inner
    assert (owners == 1).all()
    # images of a tar file stay together
    whole = WorkShare(0, jobs, unit).owns(positions)
    assert all(len(set(whole[start : start + unit])) == 1 for start in range(0, total, unit))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_a_share_that_is_none_is_refused(shard):
    with pytest.raises(InputError, match=r"shard = '.*': write k/n for the k-th of n jobs"):
        WorkShare.parse(shard)


def test_each_job_has_a_folder_of_its_own_and_the_whole_plan_takes_them_all(tmp_path):
    assert run_folders(tmp_path, " 2 / 12 ") == [str(tmp_path / "shard-2-of-12")]
    for name in ("shard-10-of-12", "shard-2-of-12", "shard-1-of-2", "shard-x-of-2", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "shard-2-of-2").write_text("a file")
    ours = [tmp_path / name for name in ("shard-1-of-2", "shard-2-of-12", "shard-10-of-12")]
    assert job_folders(tmp_path) == ours and run_folders(tmp_path, None) == [str(tmp_path), *map(str, ours)]
    assert share_of_folder(ours[1], 5) == WorkShare(1, 12, 5)
