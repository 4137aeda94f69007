"""The run ``evaluation``: fidelity of the images of each arm, at matched counts, beside the floor of real images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import codes_of, combination_codes, rows_by_group, stable_order
from medi_monai.cohort.reading import PatchReader
from medi_monai.cohort.samples import known_rows, read_arms, settings_that_differ
from medi_monai.engines.handlers import attach_bar
from medi_monai.evaluation.embedding import embed_all
from medi_monai.evaluation.fidelity import (
    DISTANCES,
    FLOOR,
    SHARES,
    Combination,
    FidelitySettings,
    compare_combination,
    of_combinations,
    pooled_distances,
    summarize,
)
from medi_monai.evaluation.memorization import memorization, read_columns
from medi_monai.evaluation.probing.arms import RESERVED_NAMES
from medi_monai.metrics import Moments, frechet_distance_of_moments, ms_ssim_diversity, paired_test
from medi_monai.networks.encoders import Encoder
from medi_monai.report import write_evaluation_page
from medi_monai.results import write_results
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, json_digest, write_table
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.workers import torch_threads

__all__ = ["evaluate_run"]

RESULTS = ("metrics.json", "metrics.csv", "closest.npz", "report.html", "summary.json")
#: images of a combination whose diversity is measured, and pairs of them
DIVERSITY_IMAGES, DIVERSITY_PAIRS = 64, 64
#: up to so many features, one thread is faster than several
SMALL_DIM = 512
#: rows added to the moments at a time
BLOCK = 16_384


def evaluate_run(
    cohort: Cohort,
    arms: Mapping[str, str | os.PathLike],
    label: str,
    attributes: Sequence[str],
    encoder: Encoder,
    image_size: int,
    output_dir: str | os.PathLike,
    settings: FidelitySettings | None = None,
    c_values: Sequence[float] = (0.001, 0.01, 0.1, 1.0),
    batch_size: int = 256,
    device: str = "cpu",
    num_workers: int = 0,
) -> dict[str, Any]:
    """Compare sampled images with real ones and write ``metrics.json``, ``metrics.csv`` and ``report.html``.

    Args:
        cohort: real images with their split; those of ``train`` are what the models saw.
        arms: name to the ``output_dir`` of its sampling.
        label: column of the class.
        attributes: columns that make a combination with the label.
        encoder: of the features.
        image_size: side in pixels.
        output_dir: earlier results move to ``earlier-<n>``.
        settings: how sets are compared.
        c_values: values of C for the classifiers that read generated images.
        batch_size: of the encoder.
        device: of the encoder.
        num_workers: processes that read images.

    Returns:
        The content of ``metrics.json``; nothing in the other processes of ``torchrun``, which embed and end.

    Raises:
        InputError: for arms or columns that are not there, or no combination with enough images.
    """
    settings, output, columns = settings or FidelitySettings(), Path(output_dir), [label, *attributes]
    real, sampled = known_rows(cohort, columns), read_arms(arms, columns, RESERVED_NAMES)
    features, first = embed_all(real, sampled, encoder, image_size, batch_size, device, num_workers)
    if not first:
        return {}
    results, pooled = _compare_all(real, sampled, features, columns, settings)
    if not any(one["matched"] for one in results):
        largest = max((max(one["counts"].values()) for one in results), default=0)
        raise InputError(
            f"no combination of {columns} has {settings.min_images} images in each half of the real ones and in every "
            f"arm (the largest set has {largest}): sample more with --images_per_combination, or lower --min_images"
        )
    manifests = {arm: (features[arm], images.table) for arm, images in sampled.items()}
    read = read_columns(features["real"], real.table, manifests, columns, c_values, settings.seed)
    with_images = {arm: (features[arm], images) for arm, images in sampled.items()}
    memory, closest = memorization(features["real"], real, with_images, image_size, settings.seed)
    matched = {tuple(one["name"]) for one in results if one["matched"]}
    diversity = _diversity(real, sampled, columns, matched, image_size, settings)
    content: dict[str, Any] = {
        "label": label,
        "attributes": list(attributes),
        "encoder": encoder.describe(),
        "settings": {**vars(settings), "image_size": image_size, "c_values": list(c_values), "arms": dict(arms)},
        "settings_that_differ": settings_that_differ(sampled),
        "digests": {
            "cohort": cohort.digest,
            **{arm: json_digest(_manifest(images)) for arm, images in sampled.items()},
        },
        "real": {"floor": _floor(results), "label_fidelity": read["real"].get(label), "diversity": diversity["real"]},
        "arms": {},
        "comparisons": _comparisons(results, list(sampled)),
    }
    content["real"]["attribute_fidelity"] = {name: read["real"].get(name) for name in attributes}
    content["real"]["memorization"] = memory.get("held_out")
    labels = sorted({one["name"][0] for one in results})
    moments = {name: _streamed_moments(rows) for name, rows in features.items()}
    for arm in sampled:
        content["arms"][arm] = {
            **{metric: _by_part(results, pooled, arm, metric, columns, labels) for metric in (*DISTANCES, *SHARES)},
            "label_fidelity": read[arm].get(label),
            "attribute_fidelity": {name: read[arm].get(name) for name in attributes},
            "diversity": diversity[arm],
            "memorization": memory[arm],
        }
        together = _distance_of_all(moments["real"], moments[arm])
        content["arms"][arm]["frechet_distance"]["all_images"] = together
    return _write(content, output, columns, real, sampled, closest)


def _compare_all(
    real: Cohort,
    sampled: Mapping[str, Cohort],
    features: Mapping[str, np.ndarray],
    columns: Sequence[str],
    settings: FidelitySettings,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    # results by combination, and distances of the combinations of each label taken together
    tables = [real.table, *(images.table for images in sampled.values())]
    codes, names = combination_codes(tables, columns)
    in_training = set(codes[0][(real.table["split"] == "train").to_numpy()].tolist())
    patients = codes_of(real.table, ["patient"])[0]
    # in the order of the names of the images: draws do not depend on the order of the rows
    members = [rows_by_group(part, len(names), stable_order(table)) for part, table in zip(codes, tables)]
    results: list[dict[str, Any]] = []
    pooled: dict[str, dict[str, Any]] = {}

    def compare(engine: Engine, code: int) -> None:
        # a combination that nobody has, or that is real or sampled alone, cannot be compared
        rows = members[0][code]
        if len(rows) and any(len(part[code]) for part in members[1:]):
            generated = {
                arm: np.asarray(features[arm][_choice(part[code], names[code], settings)])
                for arm, part in zip(sampled, members[1:])
            }
            chosen = _choice(rows, names[code], settings, 4)
            images = Combination(
                names[code], code in in_training, np.asarray(features["real"][chosen]), patients[chosen], generated
            )
            counts = {"real": len(rows), **{arm: len(part[code]) for arm, part in zip(sampled, members[1:])}}
            results.append({**compare_combination(images, settings), "counts": counts})
        label = names[code][0]
        if code + 1 == len(names) or names[code + 1][0] != label:
            # features are held for the combinations of one label alone
            own = [one for one in results if one["name"][0] == label]
            pooled[label] = pooled_distances(own)
            for one in own:
                one["drawn"] = []

    engine = Engine(compare)
    attach_bar(engine, "comparing combinations", len(names))
    small = features["real"].shape[1] <= SMALL_DIM
    with torch_threads(1 if small else torch.get_num_threads()):
        engine.run(range(len(names)), max_epochs=1, epoch_length=len(names))
    return results, pooled


def _choice(rows: np.ndarray, name: Sequence[str], settings: FidelitySettings, times: int = 1) -> np.ndarray:
    # memory stays bounded however many images a combination has
    most = settings.max_images * times
    if len(rows) <= most:
        return rows
    rng = np.random.default_rng(seed_from("choice", settings.seed, list(name), len(rows)))
    return rows[np.sort(rng.choice(len(rows), most, replace=False))]


def _floor(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {metric: summarize(results, FLOOR, metric) for metric in (*DISTANCES, *SHARES)}


def _by_part(
    results: Sequence[dict[str, Any]],
    pooled: Mapping[str, Mapping[str, Any]],
    arm: str,
    metric: str,
    columns: Sequence[str],
    labels: Sequence[str],
) -> dict[str, Any]:
    by_label = {}
    for label in labels:
        own = [one for one in results if one["name"][0] == label]
        by_label[label] = {**summarize(own, arm, metric), "floor": summarize(own, FLOOR, metric)["value"]}
        if metric == "frechet_distance":
            by_label[label]["pooled"] = pooled[label].get(arm)
            by_label[label]["pooled_floor"] = pooled[label].get(FLOOR)
    return {
        "mean": summarize(results, arm, metric),
        "seen": summarize([one for one in results if one["seen"]], arm, metric),
        "unseen": summarize([one for one in results if not one["seen"]], arm, metric),
        "floor": summarize(results, FLOOR, metric),
        "floor_seen": summarize([one for one in results if one["seen"]], FLOOR, metric),
        "floor_unseen": summarize([one for one in results if not one["seen"]], FLOOR, metric),
        "by_label": by_label,
        "by_combination": of_combinations(results, columns, arm, metric),
    }


def _comparisons(results: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Fréchet distances of two arms, paired by combination, on a scale of ratios."""
    found = []
    for place, first in enumerate(arms):
        for second in arms[place + 1 :]:
            for part in ("all", "seen", "unseen"):
                usable = [one for one in results if one["matched"] and part in ("all", _part(one))]
                values = [[one["arms"][arm]["frechet_distance"]["value"] for one in usable] for arm in (first, second)]
                test = paired_test(*np.log(np.maximum(values, 1e-12))) if usable else paired_test([], [])
                means = [float(np.mean(part_of)) if usable else None for part_of in values]
                ratio = means[0] / means[1] if means[0] is not None and means[1] else None
                found.append(
                    {"arms": [first, second], "combinations": part, "ratio_of_means": ratio, "log_ratio": test}
                )
    return found


def _part(one: Mapping[str, Any]) -> str:
    return "seen" if one["seen"] else "unseen"


def _streamed_moments(features: np.ndarray) -> Moments:
    total = Moments(features.shape[1])
    for start in range(0, len(features), BLOCK):
        total.update(np.asarray(features[start : start + BLOCK]))
    return total


def _distance_of_all(real: Moments, generated: Moments) -> dict[str, Any]:
    """Fréchet distance of all images together, whatever their mixture, as papers print it."""
    known = min(real.count, generated.count) > 1
    value = frechet_distance_of_moments(real, generated) if known else None
    return {"value": value, "ci95": None, "n": generated.count}


def _diversity(
    real: Cohort,
    sampled: Mapping[str, Cohort],
    columns: Sequence[str],
    matched: set[tuple],
    image_size: int,
    settings: FidelitySettings,
) -> dict[str, dict[str, Any]]:
    """MS-SSIM diversity within combinations, averaged over those that are compared."""
    found = {}
    for name, images in {"real": real, **sampled}.items():
        codes, names = combination_codes([images.table], columns)
        reader, values = PatchReader(images, image_size), []
        for key, rows in zip(names, rows_by_group(codes[0], len(names), stable_order(images.table))):
            if key not in matched:
                continue
            rng = np.random.default_rng(seed_from("diversity", settings.seed, list(key)))
            chosen = rng.permutation(rows)[:DIVERSITY_IMAGES].tolist()
            pixels = np.stack(reader.read(chosen)).transpose(0, 3, 1, 2)
            values.append(ms_ssim_diversity(pixels, DIVERSITY_PAIRS, settings.seed)["value"])
        reader.close()
        known = [value for value in values if value is not None]
        value = float(np.mean(known)) if known else None
        found[name] = {"value": value, "ci95": None, "n": len(known)}
    return found


def _manifest(images: Cohort) -> list[str]:
    return pd.util.hash_pandas_object(images.table, index=False).astype(str).tolist()


def _write(
    content: dict[str, Any],
    output: Path,
    columns: Sequence[str],
    real: Cohort,
    sampled: Mapping[str, Cohort],
    closest: Mapping[str, list],
) -> dict[str, Any]:
    set_aside(output, [output / name for name in RESULTS])
    content = write_results(output / "metrics.json", content)
    write_table(output / "metrics.csv", _long_table(content, columns))
    with atomic_path(output / "closest.npz") as path:
        arrays: Any = _arrays(closest)
        np.savez_compressed(path, **arrays)
    write_evaluation_page(content, closest, output / "report.html")
    finish_run(
        "evaluation",
        output,
        made={"arms": list(sampled), "real_images": len(real), **{arm: len(one) for arm, one in sampled.items()}},
        figures={arm: one["frechet_distance"]["mean"] for arm, one in content["arms"].items()},
        settings=content["settings"],
        digests=content["digests"],
        where=output / "report.html",
    )
    return content


def _arrays(closest: Mapping[str, list]) -> dict[str, np.ndarray]:
    arrays = {}
    for arm, pairs in closest.items():
        for place, name in enumerate(("images", "training", "correlation")):
            arrays[f"{arm} {name}"] = np.stack([np.asarray(pair[place]) for pair in pairs])
    return arrays


def _long_table(content: Mapping[str, Any], columns: Sequence[str]) -> pd.DataFrame:
    rows = []
    for arm, figures in content["arms"].items():
        for metric in (*DISTANCES, *SHARES):
            parts = figures[metric]
            named: list[tuple[str, dict, dict]] = [
                (name, {}, parts[name]) for name in ("mean", "seen", "unseen", "floor")
            ]
            named += [("combination", {c: one[c] for c in columns}, one) for one in parts["by_combination"]]
            named += [("label", {columns[0]: name}, one) for name, one in parts["by_label"].items()]
            for part, where, one in named:
                low, high = one["ci95"] or (None, None)
                row = {"arm": arm, "metric": metric, "part": part, **{c: where.get(c, "") for c in columns}}
                rows.append({**row, "value": one["value"], "low": low, "high": high, "n": one["n"]})
    return pd.DataFrame(rows)
