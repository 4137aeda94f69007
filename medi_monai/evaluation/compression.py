"""One compression for real and generated images before they are embedded."""

from __future__ import annotations

from collections.abc import Mapping

from medi_monai.cohort import Cohort
from medi_monai.cohort.audit.compression import is_lossy
from medi_monai.networks.encoders import CompressedEncoder, Encoder
from medi_monai.results import Finding

__all__ = ["AUTO", "AUTO_QUALITY", "NONE", "compressed_encoder", "compression_findings"]

AUTO, NONE = "auto", "none"
#: JPEG quality with ``auto``, the default of libjpeg: of scanners, few compress more
AUTO_QUALITY = 75


def compressed_encoder(
    encoder: Encoder, compression: str | int, real: Cohort, generated: Mapping[str, Cohort] | None = None
) -> Encoder:
    """Return an encoder that compresses all images as a setting says.

    Patches of slides were compressed by the scanner, most often as JPEG, and generated images were not. Encoders and
    distances react to the difference.

    Args:
        encoder: encoder of the features.
        compression: ``none``, a JPEG quality, or ``auto``: :data:`AUTO_QUALITY` if the real images come from lossy
            files and those of an arm do not, otherwise none. The real images are then compressed twice.
        real: real images.
        generated: images of each arm; if there are none, ``auto`` assumes that they are not compressed.
    """
    if compression == AUTO:
        apart = not generated or any(is_lossy(images) is False for images in generated.values())
        compression = AUTO_QUALITY if apart and is_lossy(real) else NONE
        chosen = NONE if compression == NONE else f"JPEG of quality {compression}"
        print(f"compression of all images before they are embedded (auto): {chosen}", flush=True)
    return encoder if isinstance(compression, str) else CompressedEncoder(encoder, compression)


def compression_findings(encoder: Encoder) -> list[Finding]:
    """Return a note if the encoder compresses images."""
    if not isinstance(encoder, CompressedEncoder):
        return []
    text = (
        f"All images, real and generated, were compressed as JPEG of quality {encoder.quality} before they were "
        "embedded, so real images that come from lossy files are compressed twice."
    )
    return [Finding("note", text, {"quality": encoder.quality}, "compressed")]
