import dataclasses
import shutil
import sys
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort import Cohort, Cutting, ImageTable, Preparation, Shard, SplitScheme
from medi_monai.cohort.demo import CENTERS, TUMORS
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.engines.distributed import torchrun_session
from medi_monai.runs.auditing import audit_run, audited_cohort
from medi_monai.runs.preparing import prepare_run
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import file_digest, read_json
from medi_monai.utils.tables import read_table
from medi_monai.wsi import PatchGrid

LEFT = {
    ".medi_files.jsonl",
    *("cohort.csv", "patches", "preparation.json", "slides.csv", "rejected.csv", "quality.parquet", ".lock"),
    *("audit.json", "audit.html", "quality.html", "summary.json"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight slides of two classes and two centers, and one with the tissue of the first: of its patient, or not."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pixels = scan(*draw_stains(TUMORS[seed % 2], 256, 0.5, rng), CENTERS[seed // 4], 0.5, rng)
        write_pyramid(root / f"s{seed}.tiff", pixels, 0.5)
        rows.append((f"s{seed}.tiff", f"s{seed}", f"P{seed}", "AB"[seed % 2], "xy"[seed // 4], str(40 + 3 * seed)))
    shutil.copy(root / "s0.tiff", root / "twin.tiff")
    rows.append(("twin.tiff", "twin", "Ptwin", "A", "y", "70"))
    table = pd.DataFrame(rows, columns=["image", "slide", "patient", "tumor", "center", "age"])
    table.to_csv(root / "twins.csv", index=False)
    table.loc[8, ["patient", "center"]] = ["P0", "x"]
    table.to_csv(root / "clean.csv", index=False)
    return root


def preparation(data, table="clean.csv", patch_format="png", **splits):
    source = ImageTable(data, table, "tumor", ["center", "age"])
    scheme = {"name": "site_holdout", "values": ["y"], "val_fraction": 0.0, **splits}
    cutting = Cutting(PatchGrid(32, 1.0), patch_format)
    return Preparation(source, cutting, SplitScheme(["tumor", "center"], **scheme))


def run(made, root, **options):
    """The cohort and what was printed; done in this process, for a new one takes seconds to start."""
    here = lambda function, jobs, *more: (function(job) for job in jobs)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys.modules["medi_monai.cohort.patches"], "map_processes", here)
        for name in ("SHOWN_EACH", "SHOWN_EVENLY"):
            # pictures take most of the time, and have tests of their own
            patch.setattr(f"medi_monai.report.quality_page.{name}", 1)
        cohort = prepare_run(made, root, **options)
    return cohort, printed.getvalue()


@pytest.fixture(scope="module")
def clean(data, tmp_path_factory):
    return run(preparation(data), tmp_path_factory.mktemp("clean"), fail_on_leakage=True)


@pytest.fixture(scope="module")
def twins(data, tmp_path_factory):
    return run(preparation(data, "twins.csv"), tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def regions(data, tmp_path_factory):
    return run(preparation(data, patch_format="none"), tmp_path_factory.mktemp("regions"))


def test_a_run_leaves_a_cohort_with_its_pages_and_a_summary_that_counts_it(data, clean):
    cohort, printed = clean
    root = cohort.root
    assert {path.name for path in root.iterdir()} == LEFT
    table = read_table(root / "cohort.csv")
    summary = read_json(root / "summary.json")
    assert summary["run"] == "preparing"
    expected = {"images": len(table), "slides": 9, "patients": 8, "rejected": 0}
    assert {name: summary["made"][name] for name in expected} == expected
    assert summary["figures"] == {
        f"images_{name}": int((table["split"] == name).sum()) for name in ("train", "holdout")
    }
    assert summary["digests"] == {"cohort.csv": file_digest(root / "cohort.csv")}
    assert summary["settings"] == preparation(data).settings()
    assert summary["made"]["findings"] == read_json(root / "audit.json")["findings"]
    assert f"preparing: done. Results: {root / 'cohort.csv'}, with audit.html and quality.html" in printed
    share = (table["center"] == "x").mean()
    assert f"x {share:.1%}" in next(line for line in printed.splitlines() if line.startswith("preparing: center: "))
    assert "LEAKAGE" not in printed and "excluded" not in printed and len(cohort) == len(table)


def test_the_same_tissue_in_two_splits_is_told_and_fails_the_run_where_asked(data, twins, tmp_path):
    cohort, printed = twins
    audit = read_json(cohort.root / "audit.json")
    patches = (cohort.table["slide"] == "twin").sum()
    near = audit["leakage"]["near_duplicates"]
    # all patches of both but those that are too plain to be compared
    assert 0 < near["rows"] <= 2 * patches and near["rows"] >= 2 * patches - near["plain_rows"]
    leaks = [finding for finding in audit["findings"] if finding["level"] == "leakage"]
    lines = [line for line in printed.splitlines() if line.startswith("LEAKAGE: ")]
    assert [leak["name"] for leak in leaks] == ["files_cross_split", "near_duplicates_cross_split"]
    assert lines == [f"LEAKAGE: {leak['text']}" for leak in leaks]
    assert {row["slide"] for pair in near["examples"] for row in (pair["first"], pair["second"])} == {"s0", "twin"}
    assert audit["leakage"]["patients"]["count"] == audit["leakage"]["slides"]["count"] == 0
    with pytest.raises(InputError, match="the split leaks, and fail_on_leakage is set; .*audit.html"):
        run(preparation(data, "twins.csv"), tmp_path, fail_on_leakage=True)
    assert {path.name for path in tmp_path.iterdir()} == LEFT


def test_copies_of_a_file_are_found_though_no_patch_of_theirs_is_compared(data, tmp_path):
    made = preparation(data, "twins.csv")
    made = dataclasses.replace(made, cutting=Cutting(PatchGrid(32, 1.0), "none"))
    cohort, printed = run(made, tmp_path)
    audit = read_json(tmp_path / "audit.json")
    sides = {name: (cohort.table["slide"] == name).sum() for name in ("s0", "twin")}
    example = {"slides": ["s0", "twin"], "patients": ["P0", "Ptwin"], "labels": ["A"], "splits": ["train", "holdout"]}
    assert audit["leakage"]["files"] == {"count": 1, "rows": sum(sides.values()), "examples": [example]}
    assert "LEAKAGE: 1 byte-identical file is in more than one of train and holdout" in printed
    assert audit["leakage"]["near_duplicates"] is None
    named = [finding["name"] for finding in audit["findings"] if finding["level"] == "warning"]
    assert "identical_files" in named and "'s0' and 'twin'" in printed
    assert "s0, twin" in (tmp_path / "audit.html").read_text()


@pytest.mark.parametrize("cutting", [{"measure": "never"}, {"patch_format": "none"}])
def test_leakage_is_not_refused_where_patches_would_not_be_compared(data, tmp_path, cutting):
    made = preparation(data, "twins.csv")
    made = dataclasses.replace(made, cutting=Cutting(PatchGrid(32, 1.0), **cutting))
    for start in (
        lambda: prepare_run(made, tmp_path / "new", fail_on_leakage=True),
        lambda: audited_cohort(made, tmp_path / "new", "patches", "skip", 1, fail_on_leakage=True),
    ):
        with pytest.raises(InputError, match="fail_on_leakage is set, .*set --measure always"):
            start()
    assert not (tmp_path / "new").exists()
    assert len(audited_cohort(made, tmp_path / "new", "table", "skip", 1, fail_on_leakage=True)) == 9


def test_a_misspelled_back_end_is_named_before_work_and_of_a_finished_cohort(data, clean, tmp_path):
    for root in (tmp_path / "new", clean[0].root):
        with pytest.raises(InputError, match="^unknown back end 'cuicm': did you mean 'cucim'"):
            run(preparation(data), root, backend="cuicm")
    assert not (tmp_path / "new").exists()


def test_an_audit_of_a_prepared_cohort_is_the_one_it_was_prepared_with(data, twins, tmp_path):
    cohort = audited_cohort(preparation(data, "twins.csv"), twins[0].root, "patches", "stop", 1)
    audit = audit_run(cohort, "tumor", ["center", "age"], tmp_path, combinations=["tumor", "center"])
    assert audit["findings"] == read_json(cohort.root / "audit.json")["findings"]
    names = {".medi_files.jsonl", "audit.json", "audit.html", "summary.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    summary = read_json(tmp_path / "summary.json")
    assert summary["run"] == "auditing" and summary["digests"] == {"cohort": cohort.digest}
    with pytest.raises(InputError, match="the split leaks"):
        audit_run(cohort, "tumor", ["center"], tmp_path, fail_on_leakage=True)


def test_an_audit_takes_any_table_with_a_split(tmp_path, capsys):
    table = pd.DataFrame({"image": list("abcdef"), "slide": list("abcdef"), "patient": list("pqrspq")})
    table = table.assign(tumor=list("ABABAB"), center="x", split=["train"] * 4 + ["holdout"] * 2)
    Cohort(table, tmp_path).write()
    audit = audit_run(Cohort.read(tmp_path), "tumor", ["tumor", "center"], tmp_path / "audit")
    assert audit["leakage"]["patients"]["count"] == 2 and audit["leakage"]["near_duplicates"] is None
    assert "LEAKAGE: " in capsys.readouterr().out
    with pytest.raises(InputError, match="the split leaks"):
        audit_run(Cohort.read(tmp_path), "tumor", ["center"], tmp_path / "audit", fail_on_leakage=True)


def test_what_was_measured_on_other_rows_is_not_taken_for_these(twins, tmp_path):
    cohort = twins[0]
    fewer = Cohort(cohort.table.iloc[1:].reset_index(drop=True), cohort.root)
    assert audit_run(fewer, "tumor", ["center"], tmp_path)["leakage"]["near_duplicates"] is None


def test_many_patches_of_one_slide_are_no_repetition(clean, regions):
    for (cohort, _), suffixes in ((clean, 1), (regions, 1)):
        audit = read_json(cohort.root / "audit.json")
        assert audit["leakage"]["images"]["repeated"]["count"] == 0
        assert not [finding for finding in audit["findings"] if finding["name"] == "images_repeated"]
        (suffix,) = [entry for entry in audit["properties"] if entry["property"] == "suffix"]
        assert suffix["num_values"] == suffixes
    assert regions[0].table["image"].nunique() == 9


def test_a_region_that_is_listed_twice_is_one(regions, tmp_path):
    table = regions[0].table
    doubled = Cohort(pd.concat([table, table.tail(1)], ignore_index=True), regions[0].root)
    audit = audit_run(doubled, "tumor", ["center"], tmp_path)
    row = table.iloc[-1]
    examples = [f"{row['image']} at {row['x']}, {row['y']}"]
    assert audit["leakage"]["images"]["repeated"] == {"count": 1, "examples": examples}


def test_a_table_is_audited_before_an_image_is_there(data, tmp_path, capsys):
    (tmp_path / "twins.csv").write_bytes((data / "twins.csv").read_bytes())
    cohort = audited_cohort(preparation(tmp_path, "twins.csv"), tmp_path / "nowhere", "table", "stop", 1)
    printed = capsys.readouterr().out
    assert printed == "auditing a table: only patients and slides are compared, not patches\n"
    audit = audit_run(cohort, "tumor", ["center"], tmp_path / "audit")
    assert len(cohort) == 9 and audit["leakage"]["patients"]["count"] == 0
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="'tables': did you mean 'table'"):
        audited_cohort(preparation(tmp_path, "twins.csv"), tmp_path, "tables", "stop", 1)


def test_numbers_are_looked_at_in_bins_where_there_are_many_or_it_is_asked(clean, tmp_path):
    few = audit_run(clean[0], "tumor", ["age"], tmp_path)
    asked = audit_run(clean[0], "tumor", ["age"], tmp_path, continuous=["age"])
    assert (few["settings"]["continuous"], asked["settings"]["continuous"]) == ([], ["age"])
    count = len(clean[0])
    table = clean[0].table.assign(age=[str(20 + place) for place in range(count)], code="7")
    wide = audit_run(Cohort(table, tmp_path), "tumor", ["age", "code"], tmp_path)
    assert wide["settings"]["continuous"] == ["age"]
    words = Cohort(table.assign(age=[f"a{place}" for place in range(count)]), tmp_path)
    assert audit_run(words, "tumor", ["age"], tmp_path)["settings"]["continuous"] == []


def test_rows_left_out_are_counted_and_named(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "s3.tiff").write_bytes(b"")
    (tmp_path / "data" / "s4.tiff").unlink()
    _, printed = run(preparation(tmp_path / "data"), tmp_path / "out")
    rejected = read_table(tmp_path / "out" / "rejected.csv").set_index("image")["reason"]
    assert set(rejected.index) >= {"s3.tiff", "s4.tiff"} and "empty" in rejected["s3.tiff"]
    assert f"preparing: {len(rejected)} rows or files were excluded" in printed
    assert read_json(tmp_path / "out" / "summary.json")["made"]["rejected"] == len(rejected)
    with pytest.raises(InputError, match="s4.tiff.*--on_error skip"):
        run(preparation(tmp_path / "data"), tmp_path / "stop", on_error="stop")


def test_alone_a_process_has_all_the_work(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with torchrun_session() as shard:
        assert (shard.rank, shard.world_size) == (0, 1)
        shard.wait()


@pytest.mark.parametrize("local, expected", [("1", 12), ("4", 3), ("16", 1)])
def test_cores_are_dealt_among_the_processes_of_a_machine(data, tmp_path, monkeypatch, local, expected):
    given = {}

    def stop_here(preparation, output_dir, on_error, num_workers, backend, shard):
        given.update(num_workers=num_workers, shard=shard)
        return "the cohort"

    monkeypatch.setattr("medi_monai.runs.preparing.prepare", stop_here)
    monkeypatch.setattr("medi_monai.runs.preparing.os.cpu_count", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("initialize", "finalize"):
        monkeypatch.setattr(f"ignite.distributed.{name}", lambda *arguments, **options: None)
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    # another rank than the first is done with its slides
    assert prepare_run(preparation(data), tmp_path) == "the cohort"
    assert given["num_workers"] == expected and not list(tmp_path.iterdir())
    assert dataclasses.replace(given["shard"], wait=None) == Shard(1, 2, None)


def test_where_another_process_has_ended_the_rest_say_so(monkeypatch):
    def broken():
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("initialize", "finalize"):
        monkeypatch.setattr(f"ignite.distributed.{name}", lambda *arguments, **options: None)
    monkeypatch.setattr("ignite.distributed.barrier", broken)
    with torchrun_session() as shard, pytest.raises(RunStopped, match="another process of this run has stopped"):
        shard.wait()
