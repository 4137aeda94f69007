import signal

import pytest
from small_alignment import VALUES
from small_tuning import CORNER, WHOLE, Distilling, Stopping, Tuning, Weighted, same

from medi_monai.alignment.functional import make_target
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import file_digest, load_tensors


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
    assert {path.name for path in stopped.folder.iterdir()} == {
        ".medi_files.jsonl",
        "checkpoint_00000005.pt",
        "checkpoints.json",
    }
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed, anchor = Tuning(tmp_path, "parts"), Distilling()
    resumed.run(resume=True, tuned=tuned, anchor=anchor, harden_guide=True)
    assert anchor.steps == [6, 7, 8]
    assert same(load_tensors(whole.folder / "model.pt"), load_tensors(resumed.folder / "model.pt"))
    assert whole.record == resumed.record
    states = [load_tensors(run.folder / "checkpoint_00000008.pt") for run in (whole, resumed)]
    assert {"network", "optimizer", "scheduler", "watch"} <= states[0].keys() and same(*states)


def test_a_run_that_broke_goes_on_from_its_checkpoint_and_ends_where_it_would_have(tmp_path, monkeypatch):
    whole = Tuning(tmp_path, "whole")
    others = {"validation": Weighted(WHOLE, gain=-6.0)}
    options = {"patience": 1, "val_interval": 3, "max_steps": 12, "others": others, "checkpoint_every": 1}
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


def test_earlier_results_are_set_aside_and_other_settings_are_not_resumed(tmp_path):
    Tuning(tmp_path).run(max_steps=2)
    earlier = {path.name: file_digest(path) for path in (tmp_path / "one").rglob("[!.]*.*") if path.is_file()}
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
