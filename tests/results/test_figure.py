from medi_monai.metrics import figure
from medi_monai.results import Figure, plain


def test_a_figure_is_what_metrics_return():
    for metric in (figure(0.5, [0.1, 0.2, 0.3], 3), figure(None, n=0)):
        assert plain(Figure.of({**metric, "more": 1})) == metric
