import io
import sys

from medi_monai.utils.progress import bar_settings, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_items_pass_through_unchanged_and_in_order():
    items = ["c", "a", "b"]
    assert list(progress(iter(items), 3, "reading", "slide")) == items


def test_a_log_names_the_task_and_the_count_in_plain_characters(capsys):
    list(progress(range(7), 7, "writing the demo slides", "slide"))
    shown = capsys.readouterr().err
    assert "writing the demo slides" in shown and "7/7" in shown and "slide" in shown
    assert shown.isascii()


def test_a_log_is_not_flooded(capsys):
    list(progress(range(20000), 20000, "counting", "patch"))
    assert capsys.readouterr().err.count("counting") <= 3


def test_a_terminal_is_redrawn_more_often_than_a_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    live = bar_settings()["mininterval"]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert live <= 0.5 and bar_settings()["mininterval"] >= 20 * live
