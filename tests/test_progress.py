import pytest

from keras_genmnist import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_batches_are_told_now_and_then_where_there_is_no_terminal(clock, capsys):
    seen = []
    for item in progress.batches(range(100, 107), "test"):
        seen.append(item)
        clock[0] += 4
    assert seen == list(range(100, 107))
    assert capsys.readouterr().err == "test: 3 of 7 batches\ntest: 6 of 7 batches\n"


def test_short_work_is_not_told(clock, capsys):
    assert list(progress.batches("abc", "test")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_ticker_waits_anew_after_a_restart(clock, capsys):
    ticker = progress.Ticker()
    clock[0] = progress.EVERY - 1
    ticker.restart()
    clock[0] += 2
    ticker.tell("too early")
    clock[0] += progress.EVERY
    ticker.tell("in time")
    ticker.tell("too early")
    assert capsys.readouterr().err == "in time\n"


def test_terminal_has_a_bar_and_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    for _ in progress.batches(range(7), "test"):
        clock[0] += 12
    assert "batches" not in capsys.readouterr().err
