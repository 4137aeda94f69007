"""Every run of both bundles as it works: a config, options, what it reads and what it makes. Seconds at most."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIDE = 16
NETWORK = {"channels": [8, 16], "attention_levels": [False, True], "num_res_blocks": 1, "num_head_channels": 8}
NETWORK |= {"norm_num_groups": 4}
TRAINING = {"max_steps": 4, "warmup_steps": 1, "batch_size": 4, "checkpoint_every": 2, "val_interval": 2}
TRAINING |= {"sample_every": 4, "num_validation": 4, "log_every": 1}
CLASSIFIER = {"max_steps": 4, "batch_size": 8}
AUTOENCODER = {
    "autoencoder_channels": [8, 16],
    "max_steps": 4,
    "batch_size": 4,
    "adversarial_start": 2,
    "checkpoint_every": 2,
}
AUTOENCODER |= {"num_validation": 4}
ALIGNING = {"max_steps": 2, "batch_size": 4, "pool_size": 4, "num_validation": 4, "val_interval": 1, "num_steps": 2}
ALIGNING |= {"anchor_batch_size": 2, "num_images": 8, "draws": 2, "draw_batch_size": 4, "checkpoint_every": 1}
FIDELITY = {"min_images": 2, "num_replicates": 4, "num_halves": 1, "neighbors": 1, "encoder_batch_size": 16}
PROBE = {"c_values": [1.0], "probe_replicates": 4, "num_repeats": 2, "sweep_repeats": 1, "sweep_ratios": [0.5]}
PROBE |= {"sweep_real_per_class": [4], "sweep_num_centers": [2], "sweep_correlations": [0.0], "min_count": 2}
PROBE |= {"baselines": ["class_reweighted"], "encoder_batch_size": 16}


@dataclass(frozen=True)
class Recipe:
    """A run that works.

    Attributes:
        name: bundle and run, as ``pathology/training``.
        config: in the bundle.
        overlay: of the user's, in the folder of the case.
        options: of the command line.
        reads: folders that are copied into the folder of a case.
        tables: that it reads.
        images: folders of images that it reads.
        models: files of models that it reads.
        results: patterns of files that are equal after equal runs.
        seconds: that it may take.
        longer: options for a run that is killed: kills fall between and within its checkpoints.
    """

    name: str
    config: str
    options: dict[str, Any]
    reads: tuple[str, ...]
    results: tuple[str, ...]
    overlay: str | None = None
    run_id: str = ""
    tables: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    seconds: float = 180.0
    outputs: tuple[str, ...] = field(default=("out",))
    longer: dict[str, Any] = field(default_factory=dict)

    @property
    def bundle(self) -> str:
        return self.name.split("/")[0]

    @property
    def run(self) -> str:
        return self.run_id or self.name.split("/")[1]


def model_files(folder: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in ("model.pt", "model.json", "schema.json"))


def classifier_files(*roles: str) -> tuple[str, ...]:
    return tuple(f"classifiers/{role}/{name}" for role in roles for name in ("classifier.pt", "classifier.json"))


OUT, COHORT = {"output_dir": "out"}, {"cohort_dir": "cohort", "num_workers": 1}
CLASSIFIERS, ROLES = {"classifier_dir": "classifiers"}, ("guide", "validation", "judge")
READ_COHORT = {"tables": ("cohort/cohort.csv",), "images": ("cohort",)}
RAW = {"reads": ("data",), "images": ("data",)}
TILES, SLICES = {"tables": ("data/tiles.csv",), "overlay": "data/tiles.yaml"}, {"tables": ("data/slices.csv",)}
ARMS, BEFORE_AFTER = {"cls": "cls", "medi": "medi"}, {"before": "before", "after": "after"}
SIZE = {"image_size": SIDE}
LONG_TRAINING = {"longer": {"max_steps": 60, "checkpoint_every": 4, "val_interval": 15, "sample_every": 20}}
LONG_SAMPLING = {"longer": {"num_steps": 4, "batch_size": 4}}
# never converged: each update is made
LONG_ALIGNING = {"longer": {"max_steps": 12, "checkpoint_every": 2, "val_interval": 4, "patience": 9}}

PATHOLOGY = [
    Recipe(
        "pathology/preparing", "prepare.json", {"dataset_dir": "data", "num_workers": 1, "on_error": "stop", **OUT},
        results=("out/cohort.csv", "out/**/*.png"), **RAW, **TILES,
    ),
    Recipe(
        "pathology/auditing", "audit.json",
        {"dataset_dir": "data", "audit_source": "table", "cohort_dir": "out_cohort", "num_workers": 1, **OUT},
        results=("out/audit.json",), **RAW, **TILES,
    ),
    Recipe(
        "pathology/shortcuts", "shortcuts.json",
        {
            "dataset_dir": "data", "feature_source": "data/features", "num_workers": 1, "c_values": [1.0],
            "num_repeats": 2, "probe_replicates": 4, "sweep_repeats": 1, "sweep_correlations": [0.0], "min_count": 2,
            **OUT,
        },
        results=("out/shortcuts.json",), **RAW, **TILES,
    ),
    Recipe(
        "pathology/training", "train.json",
        {**COHORT, **SIZE, **NETWORK, **TRAINING, "ckpt_dir": "new", **OUT},
        reads=("cohort",), results=("new/model.pt", "new/schema.json"), outputs=("out", "new"), **READ_COHORT,
        **LONG_TRAINING,
    ),
    Recipe(
        "pathology/sampling", "inference.json",
        {**COHORT, "ckpt_dir": "models", "plan": "observed", "images_per_combination": 2, "num_steps": 2, **OUT},
        reads=("cohort", "models"), results=("out/manifest.csv", "out/images/**/*.png"), models=model_files("models"),
        **READ_COHORT, **LONG_SAMPLING,
    ),
    Recipe(
        "pathology/sampling_tar", "inference.json",
        {
            **COHORT, "ckpt_dir": "models", "plan": "observed", "images_per_combination": 2, "num_steps": 2,
            "image_format": "tar", "images_per_tar": 3, **OUT,
        },
        reads=("cohort", "models"), results=("out/manifest.csv", "out/tars/*.tar"), models=model_files("models"),
        run_id="sampling", **READ_COHORT, **LONG_SAMPLING,
    ),
    Recipe(
        "pathology/classifying", "classify.json", {**COHORT, **SIZE, **CLASSIFIER, "role": "guide", **OUT},
        reads=("cohort",), results=("out/classifier.pt",), **READ_COHORT,
    ),
    Recipe(
        "pathology/autoencoding", "autoencode.json",
        {**COHORT, **SIZE, **AUTOENCODER, **OUT},
        reads=("cohort",), results=("out/autoencoder.pt", "out/autoencoder.json"), **READ_COHORT,
        longer={"max_steps": 40, "checkpoint_every": 4},
    ),
    Recipe(
        "pathology/adapting", "adapt.json",
        {
            "ckpt_dir": "models", "attribute": "center", "value": "East", "patches": "data/new_center.csv",
            "max_steps": 3, "num_steps": 2, **OUT,
        },
        reads=("data", "models"), results=("models/values/*",), outputs=("out", "models"),
        tables=("data/new_center.csv",), images=("data",), models=model_files("models"),
    ),
    Recipe(
        "pathology/aligning", "align.json",
        {**COHORT, **CLASSIFIERS, **ALIGNING, "ckpt_dir": "models", "aligned_dir": "new", **OUT},
        reads=("cohort", "models", "classifiers"), results=("new/model.pt", "out/plan.csv"), outputs=("out", "new"),
        models=model_files("models") + classifier_files(*ROLES), **READ_COHORT, **LONG_ALIGNING,
    ),
    Recipe(
        "pathology/evaluation", "evaluate.json", {**COHORT, **SIZE, **FIDELITY, "c_values": [1.0], "arms": ARMS, **OUT},
        reads=("cohort", "medi", "cls"), results=("out/metrics.json",),
        tables=("cohort/cohort.csv", "medi/manifest.csv"), images=("cohort", "medi"),
    ),
    Recipe(
        "pathology/evaluation_alignment", "evaluate_alignment.json",
        {**COHORT, **SIZE, **CLASSIFIERS, **FIDELITY, "arms": BEFORE_AFTER, "alignment": "aligning", **OUT},
        reads=("cohort", "before", "after", "classifiers", "aligning"), results=("out/metrics.json",),
        run_id="evaluation", tables=("cohort/cohort.csv", "after/manifest.csv"), images=("cohort", "after"),
        models=classifier_files(*ROLES) + ("aligning/alignment.json",),
    ),
    Recipe(
        "pathology/embedding", "embed.json",
        {**COHORT, **SIZE, "baselines": ["stain_normalized"], "encoder_batch_size": 16, **OUT},
        reads=("cohort",), results=("cohort/features/**/features.npy",), **READ_COHORT,
    ),
    Recipe(
        "pathology/probing", "probe.json", {**COHORT, **SIZE, **PROBE, "arms": ARMS, **OUT},
        reads=("cohort", "medi", "cls"), results=("out/probe.json",),
        tables=("cohort/cohort.csv", "medi/manifest.csv"), images=("cohort", "medi"),
    ),
    Recipe(
        "pathology/experiment", "experiment.json",
        {
            "dataset_dir": "data", "num_workers": 1, "max_parallel_stages": 1, "images_per_combination": 4,
            "num_steps": 2, "second_repeats": 2, "second_c_values": [1.0],
            **NETWORK, **TRAINING, **FIDELITY, **PROBE, **OUT,
        },
        results=("out/**/model.pt", "out/**/probe.json", "out/**/metrics.json"), seconds=400.0, **RAW, **TILES,
    ),
]  # fmt: skip

MODEL = {"ckpt_dir": "models"}
SPACE = {"channels": [8, 16], "attention_levels": [False, True], "num_res_blocks": [1, 1]}
SPACE |= {"num_head_channels": 8, "norm_num_groups": 4}
BRAIN = [
    Recipe(
        "brain/preparing", "prepare.json", {"dataset_dir": "data", "num_workers": 1, **SIZE, **OUT},
        results=("out/cohort.csv", "out/**/*.png"), **RAW, **SLICES,
    ),
    Recipe(
        "brain/training", "train.json",
        {
            **COHORT, **SIZE, **SPACE, **TRAINING, "text_steps": 2, "text_model_dir": "new/clip", "ckpt_dir": "new",
            **OUT,
        },
        # its schema.json holds the path of the text model
        reads=("cohort",), results=("new/model.pt",), outputs=("out", "new"), **READ_COHORT, **LONG_TRAINING,
    ),
    Recipe(
        "brain/sampling", "inference.json", {**COHORT, **MODEL, "num_steps": 2, "num_images": 8, **OUT},
        reads=("cohort", "models"), results=("out/manifest.csv", "out/images/**/*.png"), models=model_files("models"),
        **READ_COHORT, **LONG_SAMPLING,
    ),
    Recipe(
        "brain/classifying", "classify.json", {**COHORT, **SIZE, **CLASSIFIER, "role": "guide", **OUT},
        reads=("cohort",), results=("out/classifier.pt",), **READ_COHORT,
    ),
    Recipe(
        "brain/aligning", "align.json",
        {
            **COHORT, **CLASSIFIERS, **MODEL, "aligned_dir": "new", **OUT,
            **{name: value for name, value in ALIGNING.items() if name != "draw_batch_size"},
        },
        reads=("cohort", "models", "classifiers"), results=("new/model.pt",), outputs=("out", "new"),
        models=model_files("models") + classifier_files(*ROLES), **READ_COHORT, **LONG_ALIGNING,
    ),
    Recipe(
        "brain/resampling", "resample.json", {**CLASSIFIERS, **MODEL, "sampling_dir": "neutral", **OUT},
        reads=("models", "classifiers", "neutral"), results=("out/manifest.csv", "out/images/**/*.png"),
        tables=("neutral/manifest.csv",), images=("neutral",),
        models=("models/model.json", *classifier_files("guide")),
    ),
    Recipe(
        "brain/evaluation", "evaluate.json",
        {
            **COHORT, **CLASSIFIERS, **MODEL, **FIDELITY, "arms": {"before": "neutral", "after": "after"},
            "alignment": "aligning", **OUT,
        },
        reads=("cohort", "models", "classifiers", "neutral", "after", "aligning"), results=("out/metrics.json",),
        tables=("cohort/cohort.csv", "after/manifest.csv"), images=("cohort", "after"),
        models=(*model_files("models")[1:], *classifier_files(*ROLES), "aligning/alignment.json"),
    ),
    Recipe(
        "brain/experiment", "experiment.json",
        {
            "dataset_dir": "data", "num_workers": 1, "max_parallel_stages": 1, "text_steps": 2, "max_steps": 4,
            "warmup_steps": 1, "batch_size": 4, "classifier_steps": 4, "classifier_batch_size": 8, "align_steps": 2,
            "align_batch_size": 4, "retrain_steps": 2, "num_candidates": 8, "num_images": 8, "num_steps": 2,
            "pool_size": 4, "num_validation": 4, "val_interval": 1, "anchor_batch_size": 2, "draws": 2,
            **SIZE, **SPACE, **OUT,
        },
        results=("out/**/model.pt", "out/**/metrics.json"), seconds=400.0, **RAW, **SLICES,
    ),
]  # fmt: skip

#: of both bundles, by name, in an order in which each finds what those before have made
RECIPES = {recipe.name: recipe for recipe in [*PATHOLOGY, *BRAIN]}
