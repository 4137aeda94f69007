"""A head with known anatomy: its right, front and top are marked, whatever the orientation of the file."""

import numpy as np

#: left to right, back to front, feet to head, in voxels of these millimeters
SHAPE, SPACING = (32, 40, 24), (1.0, 1.5, 2.0)
AIR, TISSUE, RIGHT, FRONT, TOP = 0, 100, 150, 200, 250
#: slices with tissue, first and last: the head does not fill the volume
EXTENT = ((4, 27), (5, 34), (6, 19))


def head():
    """``(X, Y, Z)`` float32 in RAS+ orientation, with a mark at the patient's right, at the face and at the vertex."""
    values = np.full(SHAPE, AIR, np.float32)
    (x0, x1), (y0, y1), (z0, z1) = EXTENT
    values[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1] = TISSUE
    values[x1 - 3 : x1 + 1, 18:22, 11:15] = RIGHT
    values[14:18, y1 - 3 : y1 + 1, 11:15] = FRONT
    values[14:18, 18:22, z1 - 2 : z1 + 1] = TOP
    return values


def affine():
    """To millimeters, with an origin of no meaning."""
    matrix = np.diag([*SPACING, 1.0])
    matrix[:3, 3] = (-20, 7, 13)
    return matrix


def stored_as(values, matrix, axes):
    """The same head as a file with other axes holds it, such as ``LPI`` or ``SAR``, by nibabel."""
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    transform = ornt_transform(io_orientation(matrix), axcodes2ornt(axes))
    return apply_orientation(values, transform), matrix @ inv_ornt_aff(transform, values.shape)


def write_dicom(folder, values, matrix, uid="1.2.3", order=None, **tags):
    """A series of axial slices as scanners store them: rows from right to left, from front to back.

    Args:
        folder: to write into.
        values: ``(X, Y, Z)`` in RAS+ orientation.
        matrix: affine to RAS+ millimeters.
        uid: SeriesInstanceUID.
        order: instance number of each slice, from the feet.
        tags: of all files.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    width, height, depth = values.shape
    spacing = np.diag(matrix)[:3]
    for z in range(depth):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{z + 1}"
        dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"{uid}.{z + 1}"
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.Modality = uid, "1.2", "MR"
        dataset.InstanceNumber = int(order[z]) if order is not None else z + 1
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = height, width, 1
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        dataset.SliceThickness = float(spacing[2])
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        # the first pixel is the patient's right (the highest x of RAS) and front (the highest y)
        corner = matrix @ [width - 1, height - 1, z, 1]
        dataset.ImagePositionPatient = [float(-corner[0]), float(-corner[1]), float(corner[2])]
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.PixelData = values[::-1, ::-1, z].T.astype("<u2").tobytes()
        dataset.save_as(folder / f"IM{depth - z:04d}.dcm", enforce_file_format=True)
