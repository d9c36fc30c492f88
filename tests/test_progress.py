import pytest

from eke import progress


def test_off_a_terminal_lines_tell_count_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.bars("decoding", 1000) as advance:
        for _ in range(10):
            now += 10
            advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "decoding: 200 of 1,000, 10.0/s, 80 s left"
    assert lines[-1] == "decoding: 1,000 of 1,000 in 100 s"


def test_what_is_quick_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bars("decoding", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_reaches_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with progress.bars("fixmatch", 7) as advance:
        advance(3)
        advance(4)
    assert "7/7" in capsys.readouterr().err
