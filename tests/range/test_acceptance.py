"""The figures that make the range worth learning from."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from socadapter_agent.base_model import BUILTIN, resolve_base
from socadapter_api.errors import SpecError
from socadapter_api.training import BaseModelRef
from socadapter_range import World, export, tokenizer
from socadapter_range.acceptance import MEDIAN_RESULT, balanced_accuracy, check
from socadapter_range.tokenizer import find_tokenizer

pytestmark = pytest.mark.slow  # builds worlds of weeks


def test_balanced_accuracy_is_the_mean_of_both_sides() -> None:
    """Half of the positives and all negatives right make three quarters, whatever the mix."""
    truths = [True, True, False, False, False, False]
    assert balanced_accuracy(truths, [True, False, False, False, False, False]) == 0.75


@pytest.mark.parametrize("seed", [7, 21])
def test_all_acceptance_figures_hold(seed: int, tmp_path: Path) -> None:
    """Alert and single tools give little away, the expert's evidence all, and expertise does not carry over."""
    export(World(seed), tmp_path, train=320, holdout=320, extra=680)
    report = check(tmp_path)
    assert report.passed, report.table()
    assert 5 < report.value(MEDIAN_RESULT) < 120
    for context in ("cloud-infrastructure", "corporate-network"):
        own = report.value(f"{context}: expert's evidence")
        assert own - report.value(f"{context}: same, learned in the other context") >= 0.2


def _save_word_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words, all of them unknown to it."""
    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    folder.mkdir(parents=True)
    words.save(str(folder / "tokenizer.json"))


def test_the_tokenizer_is_that_of_the_configured_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unpacked base in $SOCADAPTER_CACHE is found without being named; a folder that is named must hold one."""
    _save_word_tokenizer(tmp_path / "cache/bases/smollm2-135m-instruct-v1")
    monkeypatch.setenv("SOCADAPTER_CACHE", str(tmp_path / "cache"))
    found = find_tokenizer()
    assert found is not None
    assert len(found.encode("three plain words").ids) == 3
    with pytest.raises(SpecError, match=r"nothing holds no tokenizer\.json"):
        find_tokenizer(tmp_path / "nothing")


def test_the_packaged_base_s_tokenizer_is_the_unpacked_one_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is unpacked yet, tokens are counted as the built-in base counts them."""
    monkeypatch.setenv("SOCADAPTER_CACHE", str(tmp_path))
    packaged = find_tokenizer()
    unpacked = find_tokenizer(resolve_base(BaseModelRef(uri=BUILTIN), tmp_path).path)
    assert packaged is not None
    assert unpacked is not None
    text = "3 rows, parent=desktop, hours=day: remote desktop"
    assert packaged.encode(text).ids == unpacked.encode(text).ids


def test_what_cannot_be_measured_does_not_hold(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any tokenizer the check fails and says how to name one."""
    monkeypatch.setenv("SOCADAPTER_CACHE", str(tmp_path))
    monkeypatch.setattr(tokenizer, "_packaged", lambda: None)
    report = check(folder)
    assert not report.passed
    assert "--tokenizer" in report.table()
    assert [MEDIAN_RESULT] == [name for name, _, _, held in report.rows if not held]
