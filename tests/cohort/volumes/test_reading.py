import itertools
from importlib.util import find_spec

import numpy as np
import pytest
from phantom import SPACING, TISSUE, affine, head, stored_as, write_dicom
from PIL import Image

from medi_monai.cohort.volumes import PLANES, VolumeReader, VolumeRules
from medi_monai.cohort.volumes.reading import image_fingerprint, read_volume
from medi_monai.cohort.volumes.rules import slice_of
from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers import PixelRules

nibabel = pytest.importorskip("nibabel", reason='nibabel is not installed: pip install "medi_monai[mr]"')

RULES = PixelRules(intensity_range=[0, 255])
#: all 48 ways to store axes
AXES = ["".join(ends) for order in itertools.permutations(("LR", "PA", "IS")) for ends in itertools.product(*order)]


def save(path, values, matrix):
    nibabel.save(nibabel.Nifti1Image(values, matrix), path)
    return path


@pytest.mark.parametrize("axes", AXES)
def test_any_orientation_becomes_that_of_nibabel(tmp_path, axes):
    path = save(tmp_path / "a.nii.gz", *stored_as(head(), affine(), axes))
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    volume = read_volume(path, RULES)
    np.testing.assert_array_equal(volume.values, canonical.get_fdata())
    np.testing.assert_array_equal(volume.values, head())
    assert volume.spacing == pytest.approx(SPACING) and canonical.header.get_zooms() == pytest.approx(SPACING)


@pytest.mark.parametrize("plane", PLANES)
def test_a_slice_has_the_pixels_and_the_spacing_of_its_plane(tmp_path, plane):
    path = save(tmp_path / "a.nii", *stored_as(head(), affine(), "PIR"))
    picture = VolumeReader(VolumeRules(plane, slices=[12]), RULES).read(path, "12")
    np.testing.assert_array_equal(picture.pixels, slice_of(head(), plane, 12).astype(np.uint8))
    down, across = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
    assert picture.spacing == pytest.approx((SPACING[down], SPACING[across]))


def test_an_oblique_volume_keeps_its_voxels(tmp_path):
    cosine, sine = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    rotation = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = save(tmp_path / "a.nii.gz", head(), rotation @ affine())
    volume = read_volume(path, RULES)
    np.testing.assert_array_equal(volume.values, head())
    assert volume.spacing == pytest.approx(SPACING)


def test_the_scale_of_a_file_is_applied_and_one_window_serves_all_slices(tmp_path):
    image = nibabel.Nifti1Image(head().astype(np.int16), affine())
    image.header.set_slope_inter(2.0, 10.0)
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii", PixelRules(percentiles=[0, 100]))
    np.testing.assert_array_equal(volume.values, 2 * head() + 10)
    assert volume.limits == (10, 510)
    reader = VolumeReader(VolumeRules(), PixelRules(percentiles=[0, 100]))
    for index in ("10", "19"):
        assert abs(int(reader.read(tmp_path / "a.nii", index).pixels[20, 6]) - TISSUE * 255 / 250) <= 1


def test_four_dimensions_need_a_choice(tmp_path):
    values = np.stack([head(), head() / 2], axis=-1)
    path = save(tmp_path / "a.nii.gz", values, affine())
    with pytest.raises(InputError, match="a.nii.gz has 2 volumes, of which one is read: set `page` .* 0 to 1"):
        read_volume(path, RULES)
    volume = read_volume(path, PixelRules(intensity_range=[0, 255], page=1))
    np.testing.assert_array_equal(volume.values, head() / 2)
    single = save(tmp_path / "b.nii.gz", values[..., :1], affine())
    np.testing.assert_array_equal(read_volume(single, RULES).values, head())


def test_two_dimensions_are_a_single_slice(tmp_path):
    path = save(tmp_path / "a.nii.gz", head()[:, :, 12], affine())
    picture = VolumeReader(VolumeRules(), RULES).read(path, "1 of 1")
    np.testing.assert_array_equal(picture.pixels, slice_of(head(), "axial", 12).astype(np.uint8))
    with pytest.raises(InputError, match="a.nii.gz is a single axial slice, but plane is 'coronal'"):
        VolumeReader(VolumeRules("coronal"), RULES).read(path, "1 of 1")


def test_a_file_without_orientation_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", head(), None)
    with pytest.raises(InputError, match="a.nii does not contain its orientation .*left and right are unknown"):
        read_volume(path, RULES)


def test_damaged_files_are_one_line(tmp_path):
    path = save(tmp_path / "a.nii.gz", head(), affine())
    plain = save(tmp_path / "b.nii", head(), affine()).read_bytes()
    for name, whole in (("c.nii.gz", path.read_bytes()), ("d.nii", plain)):
        for length in (1, 4, 100, 348, 352, len(whole) // 2, len(whole) - 60):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(InputError, match=name) as error:
                read_volume(tmp_path / name, RULES)
            assert "\n" not in str(error.value)
    save(tmp_path / "e.nii", np.where(head() > 0, np.nan, 0).astype(np.float32), affine())
    with pytest.raises(InputError, match="e.nii: it contains values that are not finite"):
        read_volume(tmp_path / "e.nii", RULES)
    with pytest.raises(InputError, match="not found"):
        read_volume(tmp_path / "absent.nii", RULES)
    with pytest.raises(InputError, match="a.nii.gz has 30,720 voxels, more than max_pixels = 100"):
        read_volume(path, PixelRules(intensity_range=[0, 1], max_pixels=100))


def test_a_dicom_series_is_the_volume_that_it_was_made_of(tmp_path):
    # neither names nor instance numbers are in the order of the positions
    order = np.random.default_rng(0).permutation(head().shape[2]) + 1
    write_dicom(tmp_path / "s", head(), affine(), order=order)
    volume = read_volume(tmp_path / "s", RULES)
    np.testing.assert_array_equal(volume.values, head())
    assert volume.spacing == pytest.approx(SPACING)
    np.testing.assert_array_equal(read_volume(tmp_path / "s" / "IM0003.dcm", RULES).values, head())


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_a_series_equals_that_of_monai(tmp_path):
    from monai.data import PydicomReader
    from monai.transforms import LoadImage, Orientation

    write_dicom(tmp_path / "s", head(), affine(), RescaleSlope=2, RescaleIntercept=-5)
    load = LoadImage(reader=PydicomReader(), image_only=True, ensure_channel_first=True)
    image = Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(load(str(tmp_path / "s")))
    volume = read_volume(tmp_path / "s", RULES)
    np.testing.assert_array_equal(volume.values, np.asarray(image)[0])
    np.testing.assert_array_equal(volume.values, head() * 2 - 5)
    assert volume.spacing == pytest.approx([float(side) for side in image.pixdim])


def test_a_folder_of_several_series_needs_a_choice(tmp_path):
    write_dicom(tmp_path / "s", head()[:, :, :5], affine(), "1.2.3", SeriesDescription="FLAIR")
    for file in sorted((tmp_path / "s").iterdir()):
        file.rename(file.with_suffix(".first"))
    write_dicom(tmp_path / "s", head() / 2, affine(), "1.2.4", SeriesDescription="T1")
    with pytest.raises(InputError, match=r"contains 2 DICOM series \(FLAIR, T1\).*SeriesInstanceUID"):
        read_volume(tmp_path / "s", RULES)
    np.testing.assert_array_equal(read_volume(tmp_path / "s", RULES, "1.2.4").values, head() // 2)
    assert read_volume(tmp_path / "s", RULES, "1.2.3").values.shape[2] == 5
    with pytest.raises(InputError, match="no DICOM image of the series 9.9"):
        read_volume(tmp_path / "s", RULES, "9.9")
    assert image_fingerprint(tmp_path / "s", "1.2.3") != image_fingerprint(tmp_path / "s", "1.2.4")


def test_a_series_with_gaps_or_repeated_positions_is_refused(tmp_path):
    write_dicom(tmp_path / "gap", head(), affine())
    (tmp_path / "gap" / "IM0007.dcm").unlink()
    with pytest.raises(InputError, match="distances of the 23 images of the series vary from 2 to 4 mm"):
        read_volume(tmp_path / "gap", RULES)
    for name in ("twice", "more"):
        write_dicom(tmp_path / name, head(), affine())
    for file in sorted((tmp_path / "more").iterdir()):
        file.rename(tmp_path / "twice" / f"again_{file.name}")
    with pytest.raises(InputError, match="several images of the series have the same position"):
        read_volume(tmp_path / "twice", RULES)
    write_dicom(tmp_path / "mixed", head(), affine())
    write_dicom(tmp_path / "other", head()[:16], affine())
    (tmp_path / "other" / "IM0001.dcm").rename(tmp_path / "mixed" / "IM0001.dcm")
    with pytest.raises(InputError, match="differ in size, spacing or orientation"):
        read_volume(tmp_path / "mixed", RULES)


def test_a_single_dicom_image_is_shown_as_it_is(tmp_path):
    write_dicom(tmp_path / "s", head(), affine())
    reader = VolumeReader(VolumeRules(), RULES)
    # files are named from the vertex down: this one is the slice with index 12
    picture = reader.read(tmp_path / "s" / "IM0012.dcm")
    np.testing.assert_array_equal(picture.pixels, slice_of(head(), "axial", 12).astype(np.uint8))
    assert picture.spacing == (SPACING[1], SPACING[0])
    write_dicom(tmp_path / "m", head(), affine(), PhotometricInterpretation="MONOCHROME1")
    for inverted in (reader.read(tmp_path / "m" / "IM0012.dcm"), reader.read(tmp_path / "m", "12")):
        np.testing.assert_array_equal(inverted.pixels, 255 - picture.pixels)


def test_an_image_is_read_as_before(tmp_path):
    Image.fromarray(np.full((4, 5), 7, np.uint8)).save(tmp_path / "a.png")
    picture = VolumeReader(VolumeRules(), RULES).read(tmp_path / "a.png")
    assert (picture.pixels == 7).all() and picture.pixels.shape == (4, 5) and picture.spacing is None


@pytest.mark.skipif(find_spec("itk") is None, reason='ITK is not installed: pip install "medi_monai[itk]"')
@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_files_of_itk(tmp_path, suffix):
    import itk

    save(tmp_path / "a.nii", *stored_as(head(), affine(), "LIP"))
    itk.imwrite(itk.imread(str(tmp_path / "a.nii")), str(tmp_path / f"a.{suffix}"))
    volume = read_volume(tmp_path / f"a.{suffix}", RULES)
    np.testing.assert_array_equal(volume.values, head())
    assert volume.spacing == pytest.approx(SPACING)
