"""Seeds that are functions of names, so that nothing depends on the order in which things happen."""

from __future__ import annotations

import hashlib
import json

import torch

__all__ = ["seed_from", "generator_from"]


def seed_from(*parts: object) -> int:
    """A seed in [0, 2**63) that depends on ``parts`` alone, alike on every machine and Python version.

    Args:
        parts: strings, numbers, or lists and dictionaries of them; dictionaries count in the order of their keys.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_from(*parts: object) -> torch.Generator:
    """A CPU random generator seeded by :func:`seed_from`; drawing on the CPU keeps noise alike on every device."""
    return torch.Generator().manual_seed(seed_from(*parts))
