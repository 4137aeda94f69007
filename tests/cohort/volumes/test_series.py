"""Series of DICOM against the arrays that they were written from, and those that pydicom reads."""

import base64

import numpy as np
import pytest
from PIL import Image

from medi_monai.cohort import prepare
from medi_monai.cohort.settings import CaptionSettings, caption_preparation
from medi_monai.cohort.volumes import series
from medi_monai.cohort.volumes.reading import read_volume
from medi_monai.cohort.volumes.series import read_series, read_single
from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed
from medi_monai.wsi.readers import PixelRules

pydicom = pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "medi_monai[mr]"')

#: how scanners store slices: directions of a row and of a column in LPS, and to the next slice
STORED = {
    "axial": ([1, 0, 0], [0, 1, 0], [0, 0, 1]),
    "coronal": ([1, 0, 0], [0, 0, -1], [0, -1, 0]),
    "sagittal": ([0, 1, 0], [0, 0, -1], [-1, 0, 0]),
}
#: 8 x 8 pixels of 16 bits, ``30 * row + 7 * column``, in lossless JPEG (process 14) as imagecodecs writes it
LOSSLESS = (
    "/9j/xAAXAAEBAQEAAAAAAAAAAAAAAAAEBQMQ/8MACxAACAAIAQARAP/aAAgB"
    "AAAGAADt9999997z3ve977z3ve977z3ve977z3ve977z3ve977z3ve977z3ve97w/9k="
)


def dataset(values, uid, number, **tags):
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"{uid}.{number}"
    image.SeriesInstanceUID, image.StudyInstanceUID, image.Modality = uid, "1.2", "MR"
    image.Rows, image.Columns, image.SamplesPerPixel = *values.shape[-2:], 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PhotometricInterpretation = "MONOCHROME2"
    for name, value in tags.items():
        setattr(image, name, value)
    image.PixelData = values.astype("<u2").tobytes()
    return image


def write_slices(folder, values, plane, uid, **tags):
    """Files of slices ``(slices, rows, columns)``, named against their order."""
    folder.mkdir(parents=True)
    across, down, step = STORED[plane]
    for number, pixels in enumerate(values):
        position = [float(3 * number * side) for side in step]
        image = dataset(pixels, uid, number, PixelSpacing=[2, 2], SliceThickness=3, **tags)
        image.ImageOrientationPatient, image.ImagePositionPatient = [*across, *down], position
        image.save_as(folder / f"{len(values) - number:03d}", enforce_file_format=True)


def random(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape)


@pytest.mark.parametrize("plane", list(STORED))
def test_slices_of_the_acquired_plane_have_the_pixels_that_pydicom_reads(tmp_path, plane):
    for number in range(4):
        tags = {"PatientID": f"P{number}", "PatientSex": "FM"[number % 2]}
        write_slices(tmp_path / "data" / f"p{number}", random((6, 16, 16), number), plane, f"1.2.{number}", **tags)
    given = {"table": {"layout": "dicom", "path": "."}, "columns": {}, "mapping": {"sex": {"column": "PatientSex"}}}
    given |= {"attributes": ["sex"], "templates": {"templates": ["of a {sex}"]}, "plane": plane, "slices": [0, 4]}
    given |= {"image_size": 16, "intensity_range": [0, 255], "holdout_fraction": 0, "val_fraction": 0}
    settings = CaptionSettings(dataset_dir=str(tmp_path / "data"), **given)
    cohort = prepare(caption_preparation(settings, None), tmp_path / "out")
    assert len(cohort) == 8
    for patient in range(4):
        # a viewer shows what is stored; files are named against the order of the slices
        files = [tmp_path / "data" / f"p{patient}" / f"{6 - number:03d}" for number in (0, 4)]
        images = cohort.table.loc[cohort.table["patient"] == f"P{patient}", "image"]
        for image, file in zip(images, files, strict=True):
            np.testing.assert_array_equal(
                np.asarray(Image.open(cohort.root / image)), pydicom.dcmread(file).pixel_array
            )


def enhanced(values, places, slopes, spacing=(2.0, 1.5), **tags):
    """An image with several frames, each with a position and a slope of its own."""
    image = dataset(values, "1.9", 0, NumberOfFrames=len(values), **tags)
    shared, measures, plane = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(spacing), 3
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    image.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for place, slope in zip(places, slopes):
        group, position, rescale = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = [10.0, 20.0, float(place)]
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, -5
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [rescale]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    return image


def test_frames_of_an_enhanced_image_are_slices_at_their_positions(tmp_path):
    values, places, slopes = random((5, 6, 7)), [9, 0, 12, 3, 6], [1, 2, 3, 4, 5]
    enhanced(values, places, slopes).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    voxels, affine, inverted = read_series([tmp_path / "a.dcm"], "a")
    assert not inverted and voxels.shape == (7, 6, 5)
    for place, pixels, slope in zip(places, values, slopes):
        np.testing.assert_array_equal(voxels[:, :, place // 3], (pixels * slope - 5).T)
    np.testing.assert_allclose(affine, [[-1.5, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 0], [0, 0, 0, 1]])
    volume = read_volume(tmp_path / "a.dcm", PixelRules(intensity_range=[0, 255]), "1.9")
    assert volume.spacing == pytest.approx((1.5, 2, 3))
    np.testing.assert_array_equal(volume.values, voxels[::-1, ::-1])


def test_frames_without_positions_or_at_the_same_are_refused_in_one_line(tmp_path):
    path = tmp_path / "a.dcm"
    dataset(random((3, 4, 4)), "1.9", 0, NumberOfFrames=3).save_as(path, enforce_file_format=True)
    with pytest.raises(InputError, match=r"a has 3 frames without the position of each.*dcm2niix"):
        read_series([path], "a")
    with pytest.raises(InputError, match="has 3 frames, of which one is read: set `page` to its number, 0 to 2"):
        read_single(path, None)
    enhanced(random((4, 4, 4)), [0, 0, 3, 3], [1] * 4).save_as(path, enforce_file_format=True)
    with pytest.raises(InputError, match="several images of the series have the same position"):
        read_series([path], "a")


@pytest.fixture
def lossless(tmp_path):
    image = dataset(np.zeros((8, 8)), "1.9", 0)
    image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
    image.PixelData = pydicom.encaps.encapsulate([base64.b64decode(LOSSLESS)])
    image["PixelData"].is_undefined_length = True
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    return tmp_path / "a.dcm"


@pytest.mark.skipif(not is_installed("gdcm"), reason='gdcm is not installed: pip install "medi_monai[mr]"')
def test_lossless_jpeg_is_read(lossless):
    values, spacing, _ = read_single(lossless, None)
    np.testing.assert_array_equal(values, 30 * np.arange(8)[:, None] + 7 * np.arange(8))
    assert spacing is None


def test_without_a_decoder_one_line_says_what_to_install(lossless, monkeypatch):
    def absent(package, purpose):
        if package == "gdcm":
            raise InputError(f"{package} is needed {purpose}")
        return pydicom

    monkeypatch.setattr(series, "require", absent)
    decoder = pydicom.pixels.decoders.JPEGLosslessSV1Decoder
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(InputError, match=r"gdcm is needed to read the pixels of .*a.dcm \(JPEG Lossless"):
        read_single(lossless, None)
