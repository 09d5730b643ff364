import json

import pytest

from anchors_jax import files


def test_atomic_files_keep_the_old_content_on_failure(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1.5})
    assert json.loads(path.read_text()) == {"a": 1.5}
    with pytest.raises(ValueError, match=r"value\.json: not JSON"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(OSError, match="full"):
        _interrupted(path)
    assert json.loads(path.read_text()) == {"a": 1.5}
    files.write_bytes(path, b"\x00")
    files.write_text(tmp_path / "deep" / "é.txt", "é")
    assert (tmp_path / "deep" / "é.txt").read_text(encoding="utf-8") == "é"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "value.json"]


def _interrupted(path):
    with files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
