"""The run ``embedding``: embed the real images of a cohort, so that evaluation and probing find their features."""

from __future__ import annotations

import os
from collections.abc import Sequence

from medi_monai.cohort import Cohort
from medi_monai.cohort.samples import known_rows
from medi_monai.engines.distributed import torchrun_session
from medi_monai.evaluation.embedding import Embedder, features_folder
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.evaluation.views import embed_real_views
from medi_monai.results import plain
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run

__all__ = ["embed_run"]


def embed_run(
    cohort: Cohort,
    columns: Sequence[str],
    baselines: Sequence[str],
    embedder: Embedder,
    output_dir: str | os.PathLike,
    settings: ProbeSettings | None = None,
) -> None:
    """Embed the real images, and those of their views that baselines need, and write ``summary.json``.

    The features are those that the runs ``evaluation`` and ``probing`` with the same settings would compute; an
    interrupted run resumes, and these runs compute what it has not.

    Args:
        cohort: real images.
        columns: label and attributes; images without a value of one of them are left out.
        baselines: baselines of the probing.
        embedder: how images are embedded.
        output_dir: output folder.
        settings: normalization, and number and strength of the augmentations.

    Raises:
        InputError: as for :func:`medi_monai.evaluation.embedding.embed_images`.
    """
    settings = settings or ProbeSettings()
    real = known_rows(cohort, columns)
    embedder = embedder.compressing(real)
    with torchrun_session() as shard:
        views, augmented = embed_real_views(real, baselines, settings, embedder, shard)
    if shard.rank > 0:
        return
    claim_results(output_dir, "embedding")
    finish_run(
        "embedding",
        output_dir,
        made={"images": len(real), "views": len(views) + len(augmented)},
        figures={},
        settings=plain({**vars(settings), "baselines": list(baselines), "encoder": embedder.encoder.describe()}),
        digests={"cohort": cohort.digest},
        where=features_folder(real, embedder.features_dir),
    )
