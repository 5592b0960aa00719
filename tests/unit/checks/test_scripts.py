"""The scripts of texts."""

import pytest

from reelnest.checks import scripts
from reelnest.checks.scripts import scripts_of


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a red car", "Latin"),
        ("une voiture à Orléans", "Latin"),
        ("красная машина", "Cyrillic"),
        ("машина Tesla", "Cyrillic"),
        ("红色的汽车", "Han"),
        ("東京タワー", "Japanese"),
        ("赤い車が走る", "Japanese"),
        ("ｆｕｌｌ ｗｉｄｔｈ ｶﾅ", "Latin"),
        ("𝐛𝐨𝐥𝐝", "Latin"),
        ("빨간 차", "Hangul"),
        ("سيارة حمراء", "Arabic"),
        ("लाल कार", "Devanagari"),
        ("2024 🎬 !?", ""),
        ("", ""),
    ],
)
def test_a_text_has_the_script_of_most_of_its_letters(text: str, script: str) -> None:
    assert scripts_of([text]) == [script]


def test_the_scripts_of_many_texts_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "BLOCK", 3)
    texts = ["a", "", "он", "漢字", "かな", "漢かな", "b1", "1", "he סרט סרט"]
    assert scripts_of(texts) == [script for text in texts for script in scripts_of([text])]
    assert scripts_of([]) == []
