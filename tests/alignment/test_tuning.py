import json
import math
import signal
from copy import deepcopy
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from small_alignment import PLAN, SCHEMA, VALUES, generator_of, network_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.settings import AlignmentLosses, AlignmentSettings
from medi_monai.alignment.step import AnchorLoss
from medi_monai.alignment.tuning import align, tuning_rate, tuning_schedule
from medi_monai.cohort import PatchDataset
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.prepare_batch import AutocastInferer, DiffusionPrepareBatch
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.tuning import TUNED, apply_adapter
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import file_digest, load_tensors, save_tensors


class Weighted(AttributeClassifier):
    """Bright where the weighted mean of the pixels is above a threshold."""

    def __init__(self, weight, threshold=0.0, gain=6.0):
        super().__init__({"shade": VALUES}, None)
        self.weight = torch.nn.Parameter(weight / weight.sum(), requires_grad=False)
        self.threshold, self.gain = threshold, gain

    def logits(self, images):
        level = self.gain * ((images * self.weight).sum((1, 2, 3)) - self.threshold)
        return torch.stack([-level, level], 1)


def pixel(row, column):
    weight = torch.zeros(3, 8, 8)
    weight[:, row, column] = 1
    return weight


WHOLE, CORNER = torch.ones(3, 8, 8), pixel(1, 1)


class Tuning:
    """All that a tuning needs, with folders of its own."""

    def __init__(self, root, name="one"):
        self.source, self.folder, self.output = root / "original" / "model.pt", root / name / "m", root / name / "o"
        self.untuned = network_of()
        if not self.source.is_file():
            self.source.parent.mkdir(parents=True)
            save_tensors(self.source, self.untuned.state_dict())
        self.network = network_of()

    def run(self, resume=False, losses=None, plan=PLAN, folder=None, guide=None, readers=None, target=None, **given):
        self.output.mkdir(parents=True, exist_ok=True)
        options = {name: given.pop(name) for name in ("anchor", "writer", "features") if name in given}
        settings = {"max_steps": 8, "batch_size": 4, "pool_size": 8, "val_interval": 3, "num_validation": 6,
                    "checkpoint_every": 4, "patience": 9, "learning_rate": 1e-2, "harden_guide": False}  # fmt: skip
        return align(
            self.network,
            generator_of(4, 2, image_size=8),
            plan,
            target or make_target({"dark": 0.2, "bright": 0.8}, {"shade": VALUES}),
            guide or Weighted(WHOLE),
            {"validation": Weighted(WHOLE, 0.02)} if readers is None else readers,
            losses or AlignmentLosses(subgroup_loss="matching", min_confidence=0.8),
            AlignmentSettings(**{**settings, **given}),
            SCHEMA,
            {"objective": "v"},
            self.output,
            folder or self.folder,
            self.source,
            resume=resume,
            **options,
        )

    @property
    def record(self):
        return json.loads((self.output / "alignment.json").read_text())


class Stopping:
    """An anchor that weighs nothing and is interrupted, or fails, at one update."""

    sampler = SimpleNamespace(batch_size=0)

    def __init__(self, step=None, signal_number=None):
        self.step, self.signal_number, self.steps = step, signal_number, []

    def __call__(self, network, untuned, step, distilled):
        self.steps.append(step)
        if step == self.step and self.signal_number is None:
            raise ZeroDivisionError
        if step == self.step:
            signal.raise_signal(self.signal_number)
        return {"anchor": sum(0 * parameter.sum() for parameter in network.parameters() if parameter.requires_grad)}


class Distilling(Stopping):
    """As an anchor on real images that are noise, drawn anew at each update."""

    sampler = SimpleNamespace(batch_size=3)

    def __call__(self, network, untuned, step, distilled):
        super().__call__(network, untuned, step, distilled)
        images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        inputs = images, torch.tensor([3, 40, 90]), SCHEMA.encode(pd.DataFrame({"kind": ["a", "b", "a"]}))
        predicted = network(*inputs)
        with torch.no_grad():
            before = untuned(*inputs)
        return {"anchor": predicted.square().mean(), "distillation": (predicted - before).square().mean()}


def same(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def seconds_apart(record):
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.mark.parametrize("loss", ["matching", "transport"])
def test_the_validation_distance_falls_and_all_is_written(loss, tmp_path):
    tuning = Tuning(tmp_path)
    original = file_digest(tuning.source)
    with SummaryWriter(tmp_path / "one" / "o") as writer:
        model = tuning.run(
            losses=AlignmentLosses(subgroup_loss=loss, min_confidence=0.5),
            max_steps=16,
            learning_rate=2e-2,
            writer=writer,
        )
    record = tuning.record
    assert file_digest(tuning.source) == original == record["untuned_sha256"]
    distances = {one["step"]: one["validation"]["distance"] for one in record["curve"]}
    assert list(distances) == [0, 3, 6, 9, 12, 15, 16]
    assert record["kept_step"] > 0 and distances[record["kept_step"]] <= min(distances.values()) + 0.005
    assert min(distances.values()) < 0.6 * distances[0]
    content = json.loads((tuning.folder / "model.json").read_text())
    assert content["objective"] == "v" and content["aligned"]["settings"]["max_steps"] == 16
    assert model == tuning.folder / "model.pt" and (tuning.folder / "schema.json").is_file()
    state = load_tensors(model)
    assert same(state, tuning.network.state_dict()) and state.keys() == tuning.untuned.state_dict().keys()
    assert (tuning.output / "samples" / "before_and_after.png").stat().st_size > 1000
    summary = json.loads((tuning.output / "summary.json").read_text())
    assert summary["figures"]["distance_before"]["validation"] == distances[0]
    assert summary["made"]["kept_update"] == record["kept_step"] and summary["made"]["updates"] == 16
    assert not list(tmp_path.rglob(".*"))
    tags = EventAccumulator(str(tuning.output)).Reload().Tags()
    assert {"loss/subgroup", "distance/guide", "distance/validation", "train/learning_rate"} <= set(tags["scalars"])


@pytest.mark.parametrize("tuned", ["all", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tuned, tmp_path, capsys):
    if tuned == "lora":
        pytest.importorskip("peft")
    whole = Tuning(tmp_path, "whole")
    whole.run(tuned=tuned, anchor=Distilling(), harden_guide=True)
    assert whole.record["real_images"] == 3
    stopped = Tuning(tmp_path, "parts")
    with pytest.raises(RunStopped, match="after update 5 of 8.*--resume true"):
        stopped.run(tuned=tuned, anchor=Distilling(5, signal.SIGTERM), harden_guide=True)
    assert [path.name for path in stopped.folder.iterdir()] == ["checkpoint_00000005.pt"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed, anchor = Tuning(tmp_path, "parts"), Distilling()
    resumed.run(resume=True, tuned=tuned, anchor=anchor, harden_guide=True)
    assert anchor.steps == [6, 7, 8]
    assert same(load_tensors(whole.folder / "model.pt"), load_tensors(resumed.folder / "model.pt"))
    assert whole.record == resumed.record
    states = [load_tensors(one.folder / "checkpoint_00000008.pt") for one in (whole, resumed)]
    assert {"network", "optimizer", "scheduler", "watch"} <= states[0].keys() and same(*states)


def test_a_run_that_broke_goes_on_from_its_checkpoint_and_ends_where_it_would_have(tmp_path, monkeypatch):
    whole = Tuning(tmp_path, "whole")
    readers = {"validation": Weighted(WHOLE, gain=-6.0)}
    options = {"patience": 1, "val_interval": 3, "max_steps": 12, "readers": readers, "checkpoint_every": 1}
    # the validation classifier sees it get worse at once
    whole.run(anchor=Stopping(), **options)
    assert whole.record["kept_step"] == 0 and whole.record["curve"][-1]["step"] == 3
    assert same(load_tensors(whole.folder / "model.pt"), whole.untuned.state_dict())
    broken = Tuning(tmp_path, "parts")
    with pytest.raises(ZeroDivisionError):
        broken.run(anchor=Stopping(3), **options)
    assert not (broken.folder / "model.pt").exists() and not (broken.output / "alignment.json").exists()
    anchor = Stopping()
    resumed = Tuning(tmp_path, "parts")
    with monkeypatch.context() as patch:
        patch.setattr(MetadataSchema, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resumed.run(resume=True, anchor=anchor, **options)
    assert anchor.steps == [3]
    # what was still to do, once more
    again = Tuning(tmp_path, "parts")
    again.run(resume=True, anchor=anchor, **options)
    assert anchor.steps == [3]
    assert again.record == whole.record
    assert same(load_tensors(again.folder / "model.pt"), whole.untuned.state_dict())


def test_a_fooled_guide_is_seen_and_the_early_weights_are_kept(tmp_path):
    """Half of what the guide reads is one pixel: it asks for images far brighter than the others' target."""
    tuning = Tuning(tmp_path)
    guide = Weighted(WHOLE / WHOLE.sum() + CORNER / CORNER.sum(), 0.7, gain=4.0)
    readers = {"validation": Weighted(WHOLE, 0.05, 40.0), "judge": Weighted(WHOLE, 0.055, 40.0)}
    losses = AlignmentLosses(
        subgroup_loss="matching", min_confidence=0.8, scope="batch", consistency_weight=0.0, pixel_weight=0.0
    )
    target = make_target("uniform", {"shade": VALUES})
    tuning.run(losses=losses, guide=guide, readers=readers, target=target, max_steps=24, learning_rate=6e-3,
               val_interval=2, num_validation=16, patience=16, batch_size=8, pool_size=16)  # fmt: skip
    curve, kept = tuning.record["curve"], tuning.record["kept_step"]
    distances = {name: [one[name]["distance"] for one in curve] for name in ("guide", "validation", "judge")}
    steps = [one["step"] for one in curve]
    at = steps.index(kept)
    assert kept < 20 and distances["guide"][-1] < distances["guide"][at], distances
    for name in ("validation", "judge"):
        assert distances[name][-1] > distances[name][at] + 0.1, distances
    assert distances["validation"][at] <= min(distances["validation"]) + 0.005
    assert same(load_tensors(tuning.folder / "model.pt"), tuning.network.state_dict())


def test_a_lost_loss_leaves_the_weights_alone(tmp_path):
    tuning = Tuning(tmp_path)

    class Lost(Stopping):
        def __call__(self, network, untuned, step, distilled):
            return {"anchor": network.conv_in.conv.weight.sum() * (float("nan") if step == 6 else 0.0)}

    with pytest.raises(RunStopped, match="at step 6.*checkpoint_00000004"):
        tuning.run(anchor=Lost())
    assert all(value.isfinite().all() for value in tuning.network.state_dict().values())
    content = load_tensors(tuning.folder / "checkpoint_00000004.pt")["network"]
    assert all(value.isfinite().all() for value in content.values())
    assert not (tuning.folder / "model.pt").exists()


def test_lora_leaves_an_adapter_that_makes_the_model(tmp_path):
    pytest.importorskip("peft")
    tuning = Tuning(tmp_path)
    tuning.run(
        tuned="lora",
        rank=2,
        learning_rate=0.1,
        losses=AlignmentLosses(subgroup_loss="matching", min_confidence=0.8, pixel_weight=0.0),
    )
    state = load_tensors(tuning.folder / "model.pt")
    assert state.keys() == tuning.untuned.state_dict().keys()
    applied = apply_adapter(network_of(), tuning.folder / "adapter.pt").state_dict()
    assert all(torch.allclose(applied[name].float(), value.float(), atol=1e-6) for name, value in state.items())
    changed = {name for name, value in tuning.untuned.state_dict().items() if not torch.equal(value, state[name])}
    assert changed and all(".attn." in name or "attentions" in name for name in changed)


def test_the_anchor_is_the_denoising_loss_and_the_distance_to_the_untuned(tiny_cohort, tiny_schema, tiny_network):
    dataset = PatchDataset(tiny_cohort.split("train"), tiny_schema, 16)
    prepare = DiffusionPrepareBatch(NoiseSchedule("cosine", 100), "v", 0.0, 0.0, 0.0, augment=False)
    anchor = AnchorLoss(dataset, 5, prepare, AutocastInferer(False), seed=4)
    places = anchor.sampler.batch(3)
    batch = {"image": dataset.images[places], "conditions": dataset.conditions[places], "index": torch.tensor(places)}
    noisy, target, _, arguments = prepare(batch, "cpu", step=3)
    tuned = deepcopy(tiny_network)
    with torch.no_grad():
        tuned.conv_in.conv.weight.mul_(1.5)
    now, before = tuned(noisy, **arguments), tiny_network(noisy, **arguments)
    terms = anchor(tuned, tiny_network, 3)
    assert terms["anchor"].item() == pytest.approx((now - target).square().mean().item(), rel=1e-5)
    assert terms["distillation"].item() == pytest.approx((now - before).square().mean().item(), rel=1e-5)
    assert anchor(tiny_network, tiny_network, 3)["distillation"] == 0
    assert list(anchor(tuned, tiny_network, 3, distilled=False)) == ["anchor"]
    assert anchor(tuned, tiny_network, 4)["anchor"] != terms["anchor"]
    balanced = AnchorLoss(dataset, 3000, prepare, AutocastInferer(False), attributes=["center"])
    shares = dataset.table["center"].iloc[balanced.sampler.batch(1)].value_counts(normalize=True)
    assert (shares - 1 / 3).abs().max() < 0.04
    assert dataset.table["center"].value_counts(normalize=True).min() < 0.27


def test_real_images_that_weigh_nothing_do_not_count(tmp_path):
    tuning = Tuning(tmp_path)
    tuning.run(
        max_steps=1,
        anchor=Distilling(),
        losses=AlignmentLosses(subgroup_loss="matching", min_confidence=0.8, anchor_weight=0, distillation_weight=0),
    )
    assert tuning.record["real_images"] == 0


def test_a_word_on_more_prompts_than_can_be_met_one_by_one(tmp_path, capsys):
    plan = pd.DataFrame({"kind": ["a", "b"], "count": [7, 1]})
    Tuning(tmp_path, "few").run(max_steps=1, plan=plan)
    assert "prompts share a pool" not in capsys.readouterr().out
    Tuning(tmp_path, "many").run(max_steps=1, plan=PLAN, pool_size=4)
    assert "2 prompts share a pool of 4 images, and 100% of them" in capsys.readouterr().out
    Tuning(tmp_path, "all").run(
        max_steps=1,
        plan=PLAN,
        pool_size=4,
        losses=AlignmentLosses(subgroup_loss="matching", min_confidence=0.8, scope="batch"),
    )
    assert "prompts share a pool" not in capsys.readouterr().out


def test_the_original_is_refused_before_any_work(tmp_path):
    tuning = Tuning(tmp_path)
    before = {name: value.clone() for name, value in tuning.network.state_dict().items()}
    (tmp_path / "link").symlink_to(tuning.source.parent)
    for folder in (tuning.source.parent, tmp_path / "link", tuning.source.parent / ".." / "original"):
        with pytest.raises(InputError, match="holds the model that is to be tuned"):
            tuning.run(folder=folder)
    with pytest.raises(InputError, match="last_steps = 3.*1 to 2"):
        tuning.run(losses=AlignmentLosses(subgroup_loss="matching", min_confidence=0.8, last_steps=3))
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        tuning.run(resume=True)
    tuning.source = tuning.source.with_name("gone.pt")
    with pytest.raises(InputError, match="no model at"):
        tuning.run()
    assert [path.name for path in (tmp_path / "original").iterdir()] == ["model.pt"]
    assert not tuning.folder.exists() or not list(tuning.folder.iterdir())
    assert same(before, dict(tuning.network.state_dict()))
    assert all(parameter.requires_grad for parameter in tuning.network.parameters())


def test_several_processes_are_refused_before_any_work(tmp_path, monkeypatch):
    tuning = Tuning(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="aligning runs in one process, and torchrun started 2"):
        tuning.run()
    assert not tuning.folder.exists() or not list(tuning.folder.iterdir())


def test_earlier_results_are_set_aside_and_other_settings_are_not_resumed(tmp_path):
    Tuning(tmp_path).run(max_steps=2)
    earlier = {path.name: file_digest(path) for path in (tmp_path / "one").rglob("*.*") if path.is_file()}
    Tuning(tmp_path).run(max_steps=3)
    moved = {path.name: file_digest(path) for path in (tmp_path / "one").rglob("earlier-1/**/*.*") if path.is_file()}
    assert moved == earlier and {"model.pt", "schema.json", "alignment.json", "before_and_after.png"} <= moved.keys()
    # no checkpoint was due; one by hand, of three updates
    stopped = Tuning(tmp_path, "two")
    with pytest.raises(RunStopped):
        stopped.run(anchor=Stopping(2, signal.SIGINT))
    for options, message in (
        ({"learning_rate": 1.0}, "settings: .*learning_rate"),
        ({"guide": Weighted(CORNER)}, "classifiers"),
        ({"target": make_target("uniform", {"shade": VALUES})}, "target"),
    ):
        with pytest.raises(InputError, match=f"other settings.*{message}"):
            Tuning(tmp_path, "two").run(resume=True, **options)


@pytest.mark.parametrize("max_steps", [1, 7, 40, 150])
def test_the_learning_rate_is_that_of_the_formula_to_the_last_digit(max_steps):
    warmup = max(1, round(0.1 * max_steps))

    def expected(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.1 + 0.9 * (1 + math.cos(math.pi * (step + 1 - warmup) / max(1, max_steps - warmup))) / 2

    assert learning_rates(max_steps) == pytest.approx([expected(step) for step in range(max_steps)], rel=1e-15)


def learning_rates(max_steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = tuning_schedule(optimizer, max_steps)
    return [schedule.lr_lambda(step) for step in range(max_steps)]


def test_the_learning_rate():
    rates = learning_rates(40)
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[-1] == pytest.approx(0.1)
    assert all(one > two for one, two in zip(rates[3:], rates[4:]))
    # half way of the fall
    assert rates[21] == pytest.approx(0.55) and learning_rates(1) == [1.0]
    assert [tuning_rate(tuned) for tuned in TUNED] == [2.5e-5, 5e-4, 1e-3]
    with pytest.raises(InputError, match="did you mean 'lora'"):
        tuning_rate("loar")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tuned": "loar"}, "did you mean 'lora'"),
        ({"max_steps": 0}, "max_steps = 0.*whole number of 1"),
        ({"learning_rate": 0}, "learning_rate = 0.*above 0"),
        ({"learning_rate": "1e-4"}, "learning_rate = '1e-4'"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm = inf"),
        ({"patience": True}, "patience = True"),
        ({"rank": 2.0}, "rank = 2.0"),
        ({"seed": -1}, "seed = -1"),
        ({"batch_size": 1}, "one image has no distribution"),
        ({"pool_size": 16}, "pool_size = 16 is less than batch_size = 48"),
        ({"harden_guide": "no"}, "harden_guide = 'no'"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        AlignmentSettings(**wrong)
