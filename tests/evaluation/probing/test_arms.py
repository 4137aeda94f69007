import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medi_monai.evaluation.probing import BASELINES, FeatureStore, ImageSet, arm_named
from medi_monai.evaluation.probing.arms import check_classes, gathered, oversampled_counts
from medi_monai.report.blocks.arms import arm_looks
from medi_monai.report.words import arm_title
from medi_monai.utils.errors import InputError


def test_every_group_counts_as_often_as_the_largest_and_each_row_once_at_least():
    groups = np.random.default_rng(1).choice([0, 3, 4], 300, p=[0.8, 0.15, 0.05])
    counts = oversampled_counts(groups, np.random.default_rng(0))
    largest = np.bincount(groups).max()
    assert counts.min() == 1 and (counts[groups == 0] == 1).all()
    assert np.bincount(groups, weights=counts)[[0, 3, 4]].tolist() == [largest] * 3


def test_rows_of_several_arrays_in_memory_and_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    large, small = rng.standard_normal((20_000, 3)).astype(np.float32), rng.standard_normal((50, 3))
    rows = rng.integers(0, 20_000, 9000), np.array([7, 7, 0])
    expected = np.vstack([large[rows[0]], small[rows[1]]]).astype(np.float32)
    assert np.array_equal(gathered([(large, rows[0]), (small, rows[1])]), expected)
    assert np.array_equal(gathered([(large, rows[0]), (small, rows[1])], str(tmp_path)), expected)
    with pytest.raises(InputError, match="of 2 and of 3 dimensions"):
        gathered([(large, rows[0]), (small[:, :2], rows[1])])


def test_an_image_set_on_disk_is_sent_by_its_folder(tmp_path):
    table = pd.DataFrame({"image": [f"{n}" for n in range(5)]})
    store = FeatureStore.create_or_open(tmp_path / "s", table, {}, 100_000 // 8)
    store.write(0, np.ones((5, 12_500), np.float32))
    images = ImageSet(store.folder, table)
    sent = pickle.dumps(images)
    assert len(sent) < 10_000 and np.array_equal(pickle.loads(sent).features, images.features)
    held = ImageSet(np.eye(5), table)
    assert np.array_equal(pickle.loads(pickle.dumps(held)).features, np.eye(5)) and len(held) == 5
    with pytest.raises(InputError, match="5 features do not match the 4 rows"):
        ImageSet(np.eye(5), table.head(4))


def test_names_of_arms():
    assert arm_named("oversampled").oversampled and arm_named("medi").added == "medi"
    assert arm_title("medi_filtered", ["medi"]) == "Real + MeDi, filtered"
    assert arm_title("other_normalized", ["medi"]) == "other, stain-normalized"
    assert arm_title("stain_normalized", ["medi"]) == "Stain-normalized"


def test_every_baseline_has_a_title_a_color_and_a_place_in_the_docs():
    docs = (Path(__file__).parents[3] / "docs" / "evidence.md").read_text(encoding="utf-8")
    for name in BASELINES:
        assert arm_title(name) != name, f"give {name} a title in ARMS of report/blocks/arms.py"
        # an arm without a color of its own takes the first of those for other arms
        styles = arm_looks([name, "another arm"])
        assert styles["another arm"] == arm_looks(["another arm"])["another arm"], (
            f"give {name} a color and a marker in ARMS of report/blocks/arms.py"
        )
        assert f"`{name}`" in docs, f"describe {name} among the arms in docs/evidence.md"
    assert len(set(arm_looks(list(BASELINES)).values())) == len(BASELINES)


def test_an_arm_without_a_class_is_refused_before_any_work(tiny_cohort):
    whole, lacking = tiny_cohort.split("train"), tiny_cohort.split("holdout")
    check_classes(tiny_cohort, {"medi": whole}, "project_id")
    with pytest.raises(InputError, match=r"'medi' has no image of project_id 'B', 'C'\. Every arm .*--plan all"):
        check_classes(tiny_cohort, {"cls": whole, "medi": lacking}, "project_id")
