"""Pre-shared keys: the files, and everywhere that they can be named."""

import base64
import os
import stat
from pathlib import Path

import pytest

from cryprq.cli import node, tool
from cryprq.config.node_config import NodeConfig
from cryprq.config.psk_file import PskError, create_psk, generate, load_all, load_psk
from cryprq.errors import ConfigError
from cryprq.protocol.identity import Identity

A, B = (str(Identity.from_seed(bytes(31) + bytes((number,))).peer_id) for number in (1, 2))
DIALS = ("--peer", f"/ip4/192.0.2.1/udp/9999/quic-v1/p2p/{A}", "--tun-address", "10.9.0.2/24")
KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    path = tmp_path / "psk"
    path.write_bytes(base64.b64encode(KEY) + b"\n")
    path.chmod(0o600)
    return path


# ---- the file ----


def test_file_is_loaded_with_and_without_its_line_end(path: Path) -> None:
    assert load_psk(path) == KEY
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert load_psk(path) == KEY


def test_created_file_is_private_new_and_loads(tmp_path: Path) -> None:
    keys = set()
    for name in "ab":
        create_psk(tmp_path / name)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        keys.add(bytes(load_psk(tmp_path / name)))
    assert len(keys) == 2
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_nothing_is_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(PskError, match="exists already"):
        create_psk(path)
    assert path.read_bytes() == before


def test_absent_file_is_told_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(PskError, match=f"cryprq genpsk --out {tmp_path}/none"):
        load_psk(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(PskError, match="cannot make"):
        create_psk(tmp_path / "file" / "psk")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        base64.b64encode(KEY[:31]) + b"\n",
        base64.b64encode(KEY + b"\0") + b"\n",
        base64.b64encode(KEY) + b"\n\n",
        base64.b64encode(KEY) + b" ",
        b" " + base64.b64encode(KEY),
        base64.b64encode(KEY).rstrip(b"="),
        base64.b64encode(bytes(32)) + b"\n",
        KEY.hex().encode(),
        KEY,
        b"\xff" * 44,
        b"A" * 5000,
    ],
)
def test_anything_else_is_refused_in_one_line_without_the_contents(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(PskError, match="is no pre-shared key: it has 32 bytes in base64") as caught:
        load_psk(path)
    assert "\n" not in str(caught.value)
    assert content.decode("latin-1").strip()[:20] not in str(caught.value) or not content.strip()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_file_open_to_others_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(PskError, match=f"open to others.*{mode:04o}.*chmod 600"):
        load_psk(path)


def test_what_is_no_file_is_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(PskError):
            load_psk(path)


def test_none_is_left_in_memory_if_one_is_bad(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bytearray] = []
    real = load_psk

    def load(path: Path) -> bytearray:
        loaded.append(real(path))
        return loaded[-1]

    monkeypatch.setattr("cryprq.config.psk_file.load_psk", load)
    peers = [Identity.from_seed(bytes((number,)) * 32).peer_id for number in range(2)]
    with pytest.raises(PskError):
        load_all({peers[0]: path, peers[1]: path.with_name("none")})
    assert loaded == [bytes(32)]


# ---- where it is named ----


def psks(*argv: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    config = NodeConfig.load([*DIALS, *argv], environ or {})
    return {str(peer): str(file) for peer, file in config.psk_files.items()}


def test_flag_beats_environment_beats_file_for_each_peer(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[psk-file]\n{A} = "a"\n{B} = "/b"\n')
    base = ("--config", str(config))
    assert psks(*base) == {A: str(tmp_path / "a"), B: "/b"}, "relative to the file that names it"
    environ = {"CRYPRQ_PSK_FILES": f"{A}=/env, {B}=/env"}
    assert psks(*base, environ=environ) == {A: "/env", B: "/env"}
    assert psks(*base, "--psk-file", f"{A}=flag", environ=environ) == {A: "flag", B: "/env"}


def test_entry_of_an_allowed_peer_may_name_its_key(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[allow-peer]\n{A} = {{ networks = ["10.8.0.0/16"], psk-file = "a" }}\n{B} = {{ psk_file = "b" }}\n'
    )
    loaded = NodeConfig.load([*DIALS, "--config", str(config)], {})
    assert {str(peer): len(networks) for peer, networks in loaded.allow_peers.items()} == {A: 1, B: 0}
    assert {str(peer): file for peer, file in loaded.psk_files.items()} == {A: tmp_path / "a", B: tmp_path / "b"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[allow-peer]\n{A} = {{ network = [] }}", "unknown key 'network' in '{A}'.*known are networks, psk-file"),
        ("[allow-peer]\n{A} = {{ networks = 1 }}", "must be a list of CIDRs"),
        ("[allow-peer]\n{A} = {{ psk-file = 1 }}", "must be the name of a file"),
        ("[psk-file]\n{A} = 1", "must be the name of a file"),
        ('[psk-file]\n{A} = ""', "names no file: the form is ID=FILE"),
        ('[psk-file]\nQmX = "a"', "is not a peer ID"),
        ('[psk-file]\n{A} = "a"\n[allow-peer]\n{A} = {{ psk-file = "b" }}', "{A} is given two keys, .*/a and .*/b"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, error: str) -> None:
    config = tmp_path / "node.toml"
    config.write_text(text.format(A=A) + "\n")
    with pytest.raises(ConfigError, match=error.format(A=A)) as caught:
        NodeConfig.load([*DIALS, "--config", str(config)], {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", A, f"{A}=", "=psk", "QmX=psk"])
def test_mistakes_in_the_flag_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--psk-file"):
        psks("--psk-file", text)


# ---- the programs ----


def test_genpsk_prints_a_key_or_makes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["genpsk"]) == 0
    printed = capsys.readouterr().out
    assert len(base64.b64decode(printed)) == 32
    assert len(printed) == len(generate()) + 1 == 45
    assert tool.main(["genpsk", "--out", str(tmp_path / "psk")]) == 0
    assert capsys.readouterr().out == ""
    load_psk(tmp_path / "psk")
    assert tool.main(["genpsk", "--out", str(tmp_path / "psk")]) == 1
    assert "exists already" in capsys.readouterr().err
    there = tmp_path / "keys" / "of" / "psk"
    assert tool.main(["genpsk", "--out", str(there)]) == 0
    load_psk(there)
    assert there.parent.stat().st_mode & 0o777 == 0o700


def test_check_looks_at_the_keys_and_shows_where_they_are(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*DIALS, "--identity", str(tmp_path / "identity"), "--check", "--psk-file"]
    assert node.main([*argv, f"{A}={path}"]) == 0
    shown = capsys.readouterr().out
    assert f"psk-file = {A}={path}\n" in shown
    assert base64.b64encode(KEY).decode() not in shown
    assert "neither allowed nor dialled" not in shown
    assert node.main([*argv, f"{B}={path}"]) == 0
    assert f"# warning: --psk-file has {path} for {B}, which is neither allowed nor dialled" in capsys.readouterr().out
    path.chmod(0o644)
    assert node.main([*argv, f"{A}={path}"]) == 1
    assert "is open to others" in capsys.readouterr().err
