import pytest
import torch
from ignite.engine import Engine, Events
from small_alignment import PLAN, VALUES, generator_of, network_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.pool import ReferencePool, SubgroupPredictor, draw_images
from medi_monai.alignment.settings import AlignmentSettings
from medi_monai.alignment.validation import SubgroupWatch
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.errors import InputError

TARGET = make_target({"dark": 0.25, "bright": 0.75}, {"shade": VALUES})


class Level(AttributeClassifier):
    """Sure that an image is bright where its mean is above a threshold, which a test may move."""

    def __init__(self, values=VALUES, share=None):
        super().__init__({"shade": values}, None)
        self.share = share

    def logits(self, images):
        bright = 40 * images.mean((1, 2, 3)) if self.share is None else torch.full((len(images),), -30.0)
        if self.share is not None:
            bright[: round(self.share * len(images))] = 30.0
        return torch.stack([-bright if value == "dark" else bright for value in self.attributes["shade"]], 1)


@pytest.fixture
def make():
    def build(classifiers, every=1, patience=2, writer=None, tolerance=0.005, num_images=8, draw=8, by_prompt=False):
        network, generator = network_of(widths=(4,)), generator_of(draw, 2, image_size=8)
        pool = ReferencePool(
            network, generator, PLAN, 8, SubgroupPredictor("guide", Level(), TARGET, draw), None, seed=1
        )
        settings = AlignmentSettings(num_validation=num_images, val_interval=every, patience=patience)
        return SubgroupWatch(network, pool, PLAN, classifiers, settings, writer, tolerance, by_prompt)

    return build


def follow(watch, classifier, shares, max_steps=None):
    """Run a tuning in which the classifier finds these shares of bright images, one validation each."""
    weight = watch.network.conv_in.conv.bias
    upcoming = iter(shares)

    def before_validation(engine):
        classifier.share = next(upcoming)
        with torch.no_grad():
            weight.fill_(engine.state.iteration)

    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.STARTED, before_validation)
    engine.add_event_handler(Events.ITERATION_COMPLETED(every=watch.every), before_validation)
    watch.attach(engine)
    steps = max_steps or (len(shares) - 1) * watch.every
    engine.run(range(steps), epoch_length=steps)
    return engine.state.iteration


def test_the_least_distance_of_the_validation_classifier_is_kept(make):
    validation, judge = Level(), Level(share=0.0)
    watch = make({"validation": validation, "judge": judge}, patience=9)
    assert follow(watch, validation, [0, 0.25, 0.625, 0.25, 1.0, 0.875]) == 5
    assert [record["step"] for record in watch.curve] == list(range(6))
    distances = [record["validation"]["distance"] for record in watch.curve]
    assert distances == pytest.approx([0.75, 0.5, 0.125, 0.5, 0.25, 0.125])
    assert {record["judge"]["distance"] for record in watch.curve} == {0.75}
    assert watch.curve[2]["validation"]["proportions"] == pytest.approx({"dark": 0.375, "bright": 0.625})
    # equally near later: the earlier stays
    assert watch.best_step == 2 and watch.kept is watch.curve[2]
    assert watch.outcome().startswith("weights of update 2 of ") and "NONE" not in watch.outcome()
    watch.best_step = 0
    assert "no update came closer" in watch.outcome()
    watch.best_step = 2
    watch.restore()
    assert set(watch.network.conv_in.conv.bias.tolist()) == {2.0}


def test_weights_are_kept_by_the_distance_within_prompts(make):
    """Halves of the images of every look are bright: all of one prompt at first, half of each later."""

    class ByPlace(Level):
        bright_rows = slice(0, 0)

        def logits(self, images):
            bright = torch.full((len(images),), -30.0)
            bright[self.bright_rows] = 30.0
            return torch.stack([-bright, bright], 1)

    for by_prompt, kept in ((False, 0), (True, 1)):
        validation = ByPlace()
        watch = make({"validation": validation}, num_images=128, draw=128, by_prompt=by_prompt)
        kinds = watch.rows["kind"].to_numpy()
        assert (kinds == "b").sum() == 32
        # b alone is bright: three quarters too few
        validation.bright_rows = torch.from_numpy(kinds == "b").nonzero()[:, 0]
        watch.validate(0)
        spread = torch.cat([torch.from_numpy(kinds == kind).nonzero()[::4, 0] for kind in "ab"])
        assert len(spread) == 32
        validation.bright_rows = spread
        watch.validate(1)
        first, second = watch.curve[0]["validation"], watch.curve[1]["validation"]
        assert first["distance"] == second["distance"] == pytest.approx(0.5)
        # b is met within a quarter, a not at all
        expected = (96 * 0.75 + 32 * 0.25) / 128 if by_prompt else 0.5
        assert first["distance_of_prompts"] == pytest.approx(expected)
        assert second["distance_of_prompts"] == pytest.approx(0.5) and watch.best_step == kept


def test_it_stops_when_patience_is_spent(make):
    validation = Level()
    watch = make({"validation": validation}, every=3, patience=2)
    shares = [0.0, 0.5, 0.375, 0.625, 0.5, 0.375, 0.75]
    assert follow(watch, validation, shares) == 15 and watch.exhausted
    assert [record["step"] for record in watch.curve] == [0, 3, 6, 9, 12, 15] and watch.best_step == 9


def test_slow_progress_is_progress(make):
    validation = Level()
    watch = make({"validation": validation}, patience=3, tolerance=0.2)
    # each look is 0.125 nearer: too little by itself, and every second one is 0.25 nearer than what was kept
    assert follow(watch, validation, [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75]) == 6
    assert watch.best_step == 6 and not watch.exhausted


def test_without_a_validation_classifier_the_guide_decides(make):
    judge = Level()
    watch = make({"judge": judge}, patience=9)
    follow(watch, judge, [0.0, 0.75, 0.0])
    guide = [record["guide"]["distance"] for record in watch.curve]
    assert watch.kept["guide"]["distance"] <= min(guide) + 0.005


def test_it_reads_the_same_images_whatever_is_drawn_at_once(make):
    turned = Level(("bright", "dark"))
    at_once, by_three = make({"validation": turned}, num_images=10), make({"validation": turned}, num_images=10, draw=3)
    for watch in (at_once, by_three):
        watch.validate(0)
        watch.validate(0)
    shares = [at_once.curve[0][name]["proportions"] for name in ("validation", "guide")]
    assert len(at_once.curve) == 1 and shares[0] == pytest.approx(shares[1])
    assert at_once.rows["kind"].value_counts().to_dict() == {"a": 8, "b": 2}
    images = draw_images(at_once.network, at_once.generator, at_once.rows)
    bright = torch.sigmoid(80 * images.mean((1, 2, 3))).mean().item()
    assert at_once.curve[0]["validation"]["distance"] == pytest.approx(abs(bright - 0.75), abs=1e-5)
    assert by_three.curve[0]["validation"]["distance"] == pytest.approx(abs(bright - 0.75), abs=1e-4)


def test_a_resumed_watch_goes_on_without_a_look_of_its_own(make):
    validation = Level()
    shares = [0.0, 0.5, 0.25, 0.5]
    whole = make({"validation": validation}, every=2, patience=2)
    assert follow(whole, validation, shares, 8) == 6
    first = make({"validation": validation}, every=2, patience=2)
    follow(first, validation, shares[:2], 3)
    resumed = make({"validation": validation}, every=2, patience=2)
    resumed.load_state_dict(first.state_dict())
    resumed._begin(Engine(lambda engine, batch: None))
    assert [record["step"] for record in resumed.curve] == [0, 2]
    for step, share in ((4, shares[2]), (6, shares[3])):
        assert not resumed.exhausted
        validation.share = share
        resumed.validate(step)
    assert resumed.exhausted and resumed.best_step == whole.best_step == 2
    assert [r["validation"] for r in resumed.curve] == [r["validation"] for r in whole.curve]
    kept = [watch.state_dict()["best"]["conv_in.conv.bias"] for watch in (whole, resumed)]
    assert torch.equal(*kept)


def test_the_curves_are_in_tensorboard(make, tmp_path):
    validation = Level()
    with SummaryWriter(tmp_path) as writer:
        watch = make({"validation": validation, "judge": Level()}, patience=9, writer=writer)
        follow(watch, validation, [0.0, 0.5])
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("guide", "validation", "judge"):
        written = [(event.step, event.value) for event in events.Scalars(f"distance/{name}")]
        assert written == [(r["step"], pytest.approx(r[name]["distance"])) for r in watch.curve]
    assert [event.value for event in events.Scalars("proportion_bright/validation")] == pytest.approx([0.0, 0.5])


def test_classifiers_that_do_not_fit(make):
    with pytest.raises(InputError, match="the validation classifier predicts the values"):
        make({"validation": Level(("dark", "grey"))})
    with pytest.raises(InputError, match="named 'guide'"):
        make({"guide": Level()})
