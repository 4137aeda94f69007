"""Derive seeds from names, so that results do not depend on the order of operations."""

from __future__ import annotations

import hashlib
import json

import torch

__all__ = ["seed_from", "generator_from"]


def seed_from(*parts: object) -> int:
    """Return a seed in [0, 2**63) that depends only on ``parts``, not on the machine or Python version.

    Args:
        parts: strings, numbers, or lists and dictionaries of them; dictionaries are sorted by key.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_from(*parts: object) -> torch.Generator:
    """Return a CPU generator seeded by :func:`seed_from`; drawing on the CPU gives the same noise on any device."""
    return torch.Generator().manual_seed(seed_from(*parts))
