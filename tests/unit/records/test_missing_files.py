"""A file that is missing because of how its name is written: the message says what to change."""

import unicodedata
from pathlib import Path

import pytest

from reelnest.errors import VideoError
from reelnest.records.formats import Video, video_files


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("videos\\a.mp4", "separate folders with / instead of \\"),
        (unicodedata.normalize("NFC", "videos/größe.mp4"), "a file of this name exists in another Unicode form (NFC or NFD); rename it"),
        (unicodedata.normalize("NFC", "vidéos/a.mp4"), "a file of this name exists in another Unicode form (NFC or NFD); rename it"),
        ("videos/A.MP4", 'did you mean "a.mp4", which differs in case or white space?'),
        ("Videos/a.mp4 ", 'did you mean "videos", which differs in case or white space?'),
        ("videos/b.mp4", "correct the path or add the file"),
        ("videos/link.mp4", "correct the path or add the file"),
        ("videos/a.mp4/a.mp4", "correct the path or add the file"),
    ],
)
def test_the_message_says_what_to_change(name: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for existing in ("a.mp4", unicodedata.normalize("NFD", "größe.mp4")):
        (tmp_path / "videos" / existing).touch()
    (tmp_path / unicodedata.normalize("NFD", "vidéos")).mkdir()
    (tmp_path / "videos" / "link.mp4").symlink_to("nothing.mp4")
    with pytest.raises(VideoError) as error:
        video_files(Video("v", name, (), {}, 1), tmp_path)
    assert error.value.reason == "missing"
    assert advice in str(error.value)
