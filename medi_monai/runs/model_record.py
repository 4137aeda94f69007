"""Check the settings in ``model.json`` with the declarations of the runs' settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medi_monai.engines.model_dir import FROM_HERE
from medi_monai.results.training import RECORD
from medi_monai.utils.errors import InputError
from medi_monai.utils.records import unknown_keys
from medi_monai.utils.settings import Settings, check_setting

__all__ = ["check_record"]

#: keys of ``model.json`` that are not settings: digests, and what other runs added
BESIDES = {FROM_HERE, "schema", "cohort", "space", "precision", "resample_to", "aligned", "initialized", RECORD}

#: settings that were introduced after the first models; models without them were trained with their defaults, except
#: for the optimizer and the weights of timesteps, which sampling does not need
LATER = {
    "adam_betas",
    "autoencoder",
    "image_channels",
    "optimizer_type",
    "patch_size",
    "permute_metadata",
    "timestep_weights",
}


def check_record(
    path: Path,
    content: Mapping[str, Any],
    groups: Mapping[str, type[Settings]],
    trained: Iterable[str],
    needed: Iterable[str],
) -> None:
    """Check the recorded settings of a training: none may be missing, unknown, or have a value that is not allowed.

    Args:
        path: path of ``model.json``, for error messages.
        content: content of ``model.json``.
        groups: all groups of settings by name.
        trained: names of the groups with which the model was trained.
        needed: settings that must be recorded.

    Raises:
        InputError: if a setting is missing, unknown or has a value that is not allowed.
    """
    lacking = [name for name in needed if name not in content and name not in LATER]
    if lacking:
        raise InputError(f"{path} is damaged, or of another run: it lacks {', '.join(lacking[:5])} of the training")
    unknown = content.keys() - {name for group in groups.values() for name in group.model_fields} - BESIDES
    if unknown:
        raise unknown_keys(str(path), unknown)
    for group in trained:
        for name in sorted(content.keys() & groups[group].model_fields.keys()):
            try:
                check_setting(groups[group], name, content[name])
            except InputError as error:
                raise InputError(f"{path} is damaged, or was changed by hand: {error}") from None
