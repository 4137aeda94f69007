import json
import math

import pandas as pd
import pytest
import torch
from small_alignment import PLAN, VALUES, network_of
from small_tuning import CORNER, WHOLE, Distilling, Tuning, Weighted, same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.settings import AlignmentLosses, AlignmentSettings, BrainAlignmentSettings
from medi_monai.alignment.tuning import tuning_schedule
from medi_monai.networks.tuning import TUNED, apply_adapter
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, load_tensors


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
    distances = {entry["step"]: entry["validation"]["distance"] for entry in record["curve"]}
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
    assert {path.name for path in tmp_path.rglob(".*")} == {".medi_files.jsonl"}
    tags = EventAccumulator(str(tuning.output)).Reload().Tags()
    assert {"loss/subgroup", "distance/guide", "distance/validation", "train/learning_rate"} <= set(tags["scalars"])


def test_a_fooled_guide_is_seen_and_the_early_weights_are_kept(tmp_path):
    """Half of what the guide reads is one pixel: it asks for images far brighter than the others' target."""
    tuning = Tuning(tmp_path)
    guide = Weighted(WHOLE / WHOLE.sum() + CORNER / CORNER.sum(), 0.7, gain=4.0)
    others = {"validation": Weighted(WHOLE, 0.05, 40.0), "judge": Weighted(WHOLE, 0.055, 40.0)}
    losses = AlignmentLosses(
        subgroup_loss="matching", min_confidence=0.8, scope="batch", consistency_weight=0.0, pixel_weight=0.0
    )
    target = make_target("uniform", {"shade": VALUES})
    tuning.run(losses=losses, guide=guide, others=others, target=target, max_steps=24, learning_rate=6e-3,
               val_interval=2, num_validation=16, patience=16, batch_size=8, pool_size=16)  # fmt: skip
    curve, kept = tuning.record["curve"], tuning.record["kept_step"]
    distances = {name: [entry[name]["distance"] for entry in curve] for name in ("guide", "validation", "judge")}
    steps = [entry["step"] for entry in curve]
    at = steps.index(kept)
    assert kept < 20 and distances["guide"][-1] < distances["guide"][at], distances
    for name in ("validation", "judge"):
        assert distances[name][-1] > distances[name][at] + 0.1, distances
    assert distances["validation"][at] <= min(distances["validation"]) + 0.005
    assert same(load_tensors(tuning.folder / "model.pt"), tuning.network.state_dict())


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
    assert "2 prompts share a pool of 4 images, and 100% of these" in capsys.readouterr().out
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
        with pytest.raises(InputError, match="contains the model to tune"):
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
    assert all(earlier > later for earlier, later in zip(rates[3:], rates[4:]))
    # half way of the fall
    assert rates[21] == pytest.approx(0.55) and learning_rates(1) == [1.0]
    assert [BrainAlignmentSettings(tuned=tuned).rate for tuned in TUNED] == [2.5e-5, 5e-4, 1e-3]
    assert AlignmentSettings().rate == 5e-5 and AlignmentSettings(learning_rate=0.1).rate == 0.1
