from medi_monai.metrics import figure
from medi_monai.results import Figure, plain, typed


def test_a_figure_is_what_metrics_return():
    for given in (figure(0.5, [0.1, 0.2, 0.3], 3), figure(None, n=0)):
        assert plain(typed(Figure, given)) == given
