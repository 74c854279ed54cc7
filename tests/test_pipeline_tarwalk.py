"""Extended headers that no writer makes: told as damage, and never walked for ever."""

import io
import tarfile

import pytest

from viewfold.pipeline.tarwalk import Damage, walk_tar


def tar_of(records: bytes) -> io.BytesIO:
    """A tar with an extended header of these records, and a sound member behind it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        extended = tarfile.TarInfo("x")
        extended.type, extended.size = tarfile.XHDTYPE, len(records)
        tar.addfile(extended, io.BytesIO(records))
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "records",
    [b"6 a=b\n0 c=d\n", b"0 a=b\n", b"2 a=b\n", b"9 a=b\n"],
    ids=["empty after one", "empty", "short", "long"],
)
def test_a_record_of_a_wrong_length_is_damage_and_what_follows_is_found(records: bytes) -> None:
    damage, member = walk_tar(tar_of(records))
    assert isinstance(damage, Damage)
    assert "damaged extended header" in damage.reason
    assert not isinstance(member, Damage)
    assert member.name == "a.jpg"


def test_a_record_of_the_right_length_names_the_member() -> None:
    (member,) = walk_tar(tar_of(b"14 path=b.jpg\n"))
    assert not isinstance(member, Damage)
    assert member.name == "b.jpg"
