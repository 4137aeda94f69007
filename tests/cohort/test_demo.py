import dataclasses
import inspect
import itertools
import os
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from medi_monai.cohort.demo import CENTERS, TUMORS, DemoCohort, are_made_up, demo_dataset, demo_schema
from medi_monai.cohort.demo.brain_cohort import brain_patient_table
from medi_monai.cohort.demo.cohort import VERSION, demo_slide_table, write_pyramid
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.demo.profiles import NUM_PATIENTS, Preparation, stain_only
from medi_monai.schema import MISSING_WORDS
from medi_monai.utils.tables import read_table

GLAND, SOLID, SPINDLE, SMALL = TUMORS
CENTER = {center.name: center for center in CENTERS}


def slides_lacking(root, names):
    """A folder as an interrupted run leaves it: every slide has a file but ``names``."""
    (root / "slides").mkdir(parents=True)
    for name in demo_slide_table()["slide_submitter_id"]:
        if name not in names:
            (root / "slides" / f"{name}.tiff").touch()


def pixels_of(root, name):
    with openslide.OpenSlide(root / "slides" / f"{name}.tiff") as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


@pytest.fixture(scope="module")
def some_slides():
    """Two slides and their centers."""
    first = demo_slide_table().groupby("center")["slide_submitter_id"].first()
    return {first[name]: CENTER[name] for name in ("Elm", "Hazel")}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, some_slides):
    """The demo cohort in the cache, of which two slides are written here."""
    cache = tmp_path_factory.mktemp("cache")
    slides_lacking(cache / f"demo_v{VERSION}_seed0", list(some_slides))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDI_CACHE", str(cache))
        yield demo_dataset(num_workers=1)


def test_the_table_depends_on_the_seed_alone():
    np.random.seed(5)
    third, fourth = DemoCohort(3), DemoCohort(4)
    pd.testing.assert_frame_equal(demo_slide_table(third), demo_slide_table(third))
    assert not demo_slide_table(third).equals(demo_slide_table(fourth))


def test_a_site_code_belongs_to_one_project_and_one_center():
    table = demo_slide_table()
    assert (table.groupby("tissue_source_site")[["project_id", "center"]].nunique() == 1).all(axis=None)
    assert {"NA", "01"} < set(table["tissue_source_site"])


def test_every_center_meets_every_project_so_that_they_can_be_recombined():
    table = demo_slide_table()
    met = set(zip(table["project_id"], table["center"]))
    assert met == set(itertools.product((tumor.project for tumor in TUMORS), CENTER))


def test_patients_are_as_many_as_the_profiles_say_and_keep_to_one_row_of_attributes():
    table = demo_slide_table()
    patients = table.drop_duplicates("case_submitter_id")
    counted = pd.crosstab(patients["project_id"], patients["center"])
    counted = counted.loc[[tumor.project for tumor in TUMORS], [center.name for center in CENTERS]]
    assert np.array_equal(counted.to_numpy(), NUM_PATIENTS)
    attributes = ["project_id", "center", "tissue_source_site", "race", "gender", "age_at_index"]
    assert (table.groupby("case_submitter_id")[attributes].nunique() == 1).all(axis=None)
    assert table["slide_submitter_id"].is_unique and len(table) > len(patients)
    assert all(slide.startswith(case) for slide, case in zip(table["slide_submitter_id"], table["case_submitter_id"]))


def test_the_schema_has_every_project_and_center_and_fits_the_table():
    schema = demo_schema()
    assert schema.names == ("project_id", "center")
    assert set(schema.label.values) == {tumor.project for tumor in TUMORS}
    assert set(schema.attributes[0].values) == set(CENTER)
    assert (schema.encode(demo_slide_table(DemoCohort(7))) >= 0).all()


def test_the_written_table_survives_reading_with_na_01_and_missing_race(cohort):
    written, table = read_table(cohort / "slides.csv"), demo_slide_table()
    assert written.to_dict("list") == table[list(written)].to_dict("list")
    assert set(table) - set(written) == {"tumor_index", "center_index", "num_patients"}
    assert {"NA", "01"} < set(written["tissue_source_site"])
    words = written["race"].str.lower().isin(MISSING_WORDS)
    assert words.any() and not written["tissue_source_site"].str.lower().isin(MISSING_WORDS).any()


def test_there_is_a_slide_for_every_row_and_nothing_else(cohort):
    names = read_table(cohort / "slides.csv")["slide_submitter_id"]
    assert sorted(os.listdir(cohort / "slides")) == sorted(f"{name}.tiff" for name in names)
    assert sorted(os.listdir(cohort)) == ["slides", "slides.csv"]


def test_slides_are_pyramids_with_their_centers_resolution(cohort, some_slides):
    for name, center in some_slides.items():
        with openslide.OpenSlide(cohort / "slides" / f"{name}.tiff") as slide:
            assert slide.level_downsamples == (1, 2, 4)
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(center.mpp, rel=1e-4)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(center.mpp, rel=1e-4)
            assert slide.dimensions[0] * center.mpp > 300


def test_slides_are_tiled_jpeg(cohort, some_slides):
    for name in some_slides:
        with tifffile.TiffFile(cohort / "slides" / f"{name}.tiff") as file:
            assert [page.compression.name for page in file.pages] == ["JPEG"] * 3
            assert all(page.is_tiled and (page.tilewidth, page.tilelength) == (256, 256) for page in file.pages)
            assert [page.subfiletype for page in file.pages] == [0, 1, 1]


def test_slides_show_tissue_with_glass_in_the_corners(cohort, some_slides):
    for name, center in some_slides.items():
        pixels = pixels_of(cohort, name).astype(float)
        corners = np.stack([np.rot90(pixels, turn)[:48, :48] for turn in range(4)])
        assert np.abs(corners.mean(axis=(0, 1, 2)) - center.white).max() < 3
        third = len(pixels) // 3
        assert pixels[third:-third, third:-third].mean() < corners.mean() - 25


def test_the_same_seed_gives_the_same_pixels_whatever_else_is_written(cohort, some_slides, tmp_path, monkeypatch):
    name = list(some_slides)[1]
    slides_lacking(tmp_path / cohort.name, [name])
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path))
    again = demo_dataset(num_workers=1)
    assert again == tmp_path / cohort.name
    assert np.array_equal(pixels_of(again, name), pixels_of(cohort, name))
    assert (again / "slides.csv").read_bytes() == (cohort / "slides.csv").read_bytes()


def test_a_finished_cohort_is_not_touched_again(cohort):
    before = {path: path.stat().st_mtime_ns for path in Path(cohort).rglob("*")}
    assert demo_dataset() == cohort
    assert {path: path.stat().st_mtime_ns for path in Path(cohort).rglob("*")} == before


@pytest.mark.parametrize("tumor", TUMORS, ids=lambda tumor: tumor.project)
def test_the_same_generator_draws_the_same_and_another_another(tumor):
    drawn, same, other = (draw_stains(tumor, 400, 0.5, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(drawn, same) and not np.array_equal(drawn, other)


def test_the_morphology_knows_the_preparation_of_a_center_alone():
    assert list(inspect.signature(draw_stains).parameters) == ["tumor", "size", "mpp", "rng", "preparation"]


def test_nothing_but_the_stain_gives_the_tumor_away():
    # weighted by patients: the mean of a trait over the centers of a tumor is that of every other tumor
    traits = [
        (*dataclasses.astuple(center.preparation), center.sharpening, center.quality, center.mpp) for center in CENTERS
    ]
    means = (NUM_PATIENTS @ np.array(traits)) / NUM_PATIENTS.sum(axis=1, keepdims=True)
    assert np.allclose(means[:, :-1], means[0, :-1])
    assert np.ptp(traits, axis=0)[:-1].min() > 0, "and centers differ in it"


@pytest.mark.parametrize(
    "dataset_dir, cohort",
    [
        (None, DemoCohort()),
        ("demo@0", DemoCohort()),
        ("demo@12", DemoCohort(12)),
        ("demo_balanced", DemoCohort(balanced=True)),
        ("demo_stain@1", DemoCohort(1, stain_only=True)),
        ("demo", None),
        ("demo@", None),
        ("demo@-1", None),
        ("demo_stian", None),
        ("/data/demo@1", None),
    ],
)
def test_names_select_demo_cohorts_and_everything_else_is_a_folder(dataset_dir, cohort):
    assert DemoCohort.selected_by(dataset_dir) == cohort


def test_every_demo_cohort_has_a_folder_of_its_own():
    cohorts = [DemoCohort(*values) for values in itertools.product((0, 1), (False, True), (False, True))]
    assert len({cohort.folder for cohort in cohorts}) == len(cohorts)


def test_a_center_with_the_stain_alone_has_a_plain_preparation():
    for center in CENTERS:
        plain = stain_only(center)
        assert plain.preparation == Preparation() and plain.sharpening == 0
        same = ("name", "hematoxylin", "eosin", "white", "blur", "mpp")
        assert all(getattr(plain, name) == getattr(center, name) for name in same)


def nuclei_drawn(preparation, seed=0, tumor=SMALL):
    return draw_stains(tumor, 512, 0.5, np.random.default_rng(seed), preparation)[0]


def test_fixation_shrinks_nuclei_by_the_square_in_area():
    plain, shrunk = ((nuclei_drawn(Preparation(shrinkage)) > 0.4).sum() for shrinkage in (0.0, 0.2))
    assert shrunk / plain == pytest.approx(0.8**2, abs=0.06)


def test_clearing_pales_the_middle_of_nuclei_and_not_their_outline():
    plain, cleared = (nuclei_drawn(Preparation(clearing=clearing)) for clearing in (0.0, 0.4))
    inside = plain > 0.75
    middle = ndimage.binary_erosion(inside, iterations=4)
    ratio = cleared / np.maximum(plain, 1e-6)
    assert ratio[middle].mean() == pytest.approx(0.65, abs=0.08)
    outline = inside & ~ndimage.binary_erosion(inside)
    assert ratio[outline].mean() > ratio[middle].mean() + 0.15


def test_a_thicker_section_has_more_stain_in_proportion():
    def mean_stains(thickness):
        inner = slice(128, 384)
        drawn = [
            draw_stains(SMALL, 512, 0.5, np.random.default_rng(s), Preparation(thickness=thickness)) for s in (0, 1)
        ]
        return np.mean([[stain[inner, inner].mean() for stain in stains] for stains in drawn], axis=0)

    # 0.06 of hematoxylin is everywhere; nuclei of one layer hide parts of each other, those of two layers add up
    (thin, thin_eosin), (thick, thick_eosin) = mean_stains(1.0), mean_stains(1.3)
    assert (thick - 0.06) / (thin - 0.06) == pytest.approx(1.3, abs=0.08)
    assert thick_eosin / thin_eosin == pytest.approx(1.3, abs=0.02)


def test_sharpening_is_an_unsharp_mask_in_microns():
    edge = np.zeros((128, 128), np.float32)
    edge[:, 64:] = 1
    plain = dataclasses.replace(stain_only(CENTER["Aspen"]), blur=1.0)
    sharp = dataclasses.replace(plain, sharpening=0.8)
    before, after = (scan(edge, edge, center, 0.5, np.random.default_rng(0)).astype(float) for center in (plain, sharp))
    expected = before + 0.8 * (before - ndimage.gaussian_filter(before, (2, 2, 0)))
    assert np.abs((after - np.clip(expected, 0, 255)).mean(axis=0)).max() < 1.5


@pytest.mark.parametrize("center", CENTERS, ids=lambda center: center.name)
def test_color_deconvolution_gives_every_centers_stains_back(center):
    # Ruifrok and Johnston's linear unmixing in optical density, with the center's own vectors
    hematoxylin, eosin = draw_stains(GLAND, 400, 0.5, np.random.default_rng(4))
    sharp = dataclasses.replace(center, blur=1e-3, sharpening=0)
    pixels = scan(hematoxylin, eosin, sharp, 0.5, np.random.default_rng(5))
    density = -np.log10(np.clip(pixels, 1, None) / np.asarray(center.white))
    stains = np.stack([center.hematoxylin, center.eosin])
    unmixed = density.reshape(-1, 3) @ np.linalg.pinv(stains)
    for stain, drawn in zip(unmixed.T, (hematoxylin, eosin)):
        assert np.corrcoef(stain, drawn.ravel())[0, 1] > 0.95
        slope = (stain * drawn.ravel()).sum() / np.square(drawn).sum()
        assert slope == pytest.approx(1, abs=0.25), "a slide varies by about 6 % in concentration"


def test_scanning_glass_gives_the_white_point():
    glass = np.zeros((64, 64), np.float32)
    for center in CENTERS:
        pixels = scan(glass, glass, center, center.mpp, np.random.default_rng(0))
        assert np.abs(pixels.mean(axis=(0, 1)) - center.white).max() < 0.5


def test_blur_is_in_microns():
    # an edge of nuclei is as wide on a fine scanner as on a coarse one: 2 sigma between 16 % and 84 % of its height
    def width(mpp):
        size = round(60 / mpp)
        edge = np.zeros((size, size), np.float32)
        edge[:, size // 2 :] = 1
        center = dataclasses.replace(CENTER["Aspen"], blur=2.0, sharpening=0)
        profile = scan(edge, np.zeros_like(edge), center, mpp, np.random.default_rng(0))[..., 0].mean(axis=0)
        low, high = profile[-size // 5 :].mean(), profile[: size // 5].mean()
        inner = slice(size // 3, -size // 3)
        crossings = np.interp([0.1587, 0.8413], ((profile - low) / (high - low))[inner][::-1], np.arange(size)[inner])
        return (crossings[1] - crossings[0]) * mpp / 2

    assert width(0.25) == pytest.approx(2.0, rel=0.1)
    assert width(0.5) == pytest.approx(2.0, rel=0.1)


def test_tumors_differ_in_the_number_of_their_nuclei():
    def nuclear_area(tumor):
        return np.mean([(draw_stains(tumor, 512, 0.5, np.random.default_rng(s))[0] > 0.5).mean() for s in range(3)])

    areas = {tumor.project: nuclear_area(tumor) for tumor in (GLAND, SOLID, SPINDLE, SMALL)}
    for tumor in (SOLID, SPINDLE, SMALL):
        # the ellipses of the profile, less what lies on glass and on blurred edges
        expected = tumor.nuclei_per_mm2 * np.pi / 4 * (tumor.nuclear_diameter / 1000) ** 2
        assert 0.3 * expected < areas[tumor.project] < expected
    assert areas["DEMO-SOLID"] > 1.2 * areas["DEMO-SPINDLE"]


def test_lumina_are_a_mark_of_glands():
    def clear(tumor):
        hematoxylin, eosin = draw_stains(tumor, 512, 0.5, np.random.default_rng(0))
        inner = slice(128, 384)
        return ((eosin[inner, inner] < 0.04) & (hematoxylin[inner, inner] < 0.04)).mean()

    assert clear(GLAND) > 0.05
    assert max(clear(tumor) for tumor in (SOLID, SPINDLE, SMALL)) < 0.01


def test_a_pyramid_halves_by_means_of_four_pixels(tmp_path):
    rng = np.random.default_rng(0)
    # smooth, so that JPEG hardly changes it
    pixels = np.kron(rng.integers(60, 200, (8, 16, 1)), np.ones((32, 32, 3))).astype(np.uint8)
    write_pyramid(tmp_path / "a.tiff", pixels, 0.31)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        for level, page in enumerate(file.pages):
            factor = 2**level
            expected = pixels.reshape(256 // factor, factor, 512 // factor, factor, 3).mean(axis=(1, 3))
            assert np.abs(page.asarray() - expected).mean() < 2
            assert 1e4 / (page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1]) == pytest.approx(
                0.31 * factor, rel=1e-4
            )


def test_patients_of_every_demo_are_known_to_be_made_up():
    for cohort in (DemoCohort(), DemoCohort(1, balanced=True), DemoCohort(stain_only=True)):
        assert are_made_up(demo_slide_table(cohort)["case_submitter_id"])
    assert all(are_made_up(brain_patient_table(5, name=name)["patient"]) for name in ("DEMO", "REFERENCE"))
    assert not are_made_up([]) and not are_made_up(["DEMO-01-0100", "TCGA-AA-3812"])
