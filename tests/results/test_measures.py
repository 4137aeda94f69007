from result_contents import figure, memory

from medi_monai.results import typed
from medi_monai.results.measures import Memorization


def test_copies_are_judged_beside_those_of_real_images():
    def copies(low, high):
        return typed(Memorization, memory(figure((low + high) / 2, low, high)))

    held_out = copies(0.3, 0.37)
    assert copies(0.4, 0.48).reproduces_training_images(held_out)
    assert not copies(0.35, 0.45).reproduces_training_images(held_out)
    assert not copies(0.4, 0.5).reproduces_training_images(None)
    assert not typed(Memorization, memory(figure(0.9))).reproduces_training_images(held_out)
