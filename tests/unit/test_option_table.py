"""One table of options: what is added to it, and nowhere else, is in the help, the environment, the file, ``--check``,
reload and the README; and what is in it is right everywhere."""

import runpy
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from cryprq.config import values
from cryprq.config.command_line import parser
from cryprq.config.node_config import NodeConfig
from cryprq.config.options import number, option, repeatable, switch, table
from cryprq.errors import ConfigError
from cryprq.node.reload import merge
from lab import ROOT

LISTEN = ["--listen", "/ip6/::/udp/9999/quic-v1", "--tun-address", "10.9.0.1/24"]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_settings.py"))


@dataclass(frozen=True, kw_only=True)
class LampConfig(NodeConfig):
    """A node with a lamp: four more rows."""

    lamp: bool = switch("lamp", env="CRYPRQ_LAMP", help="there is a lamp", reload=True)
    lamp_hue: int = number("lamp-hue", env="CRYPRQ_LAMP_HUE", help="degrees", low=0, high=360, default=120)
    lamp_rooms: tuple[str, ...] = repeatable(
        "lamp-room", "NAME", env="CRYPRQ_LAMP_ROOMS", help="where it is `seen`", parse=str, into=tuple, absent="nowhere"
    )
    lamp_script: Path | None = option(
        "lamp-script",
        "FILE|N",
        env="CRYPRQ_LAMP_SCRIPT",
        else_env=("LAMPS", lambda text: text.partition(";")[0]),
        help="how it moves",
        parse=Path,
        toml=(str, int),
        is_path=True,
        default=None,
        reload=True,
    )


def load(*argv: str, **environ: str) -> LampConfig:
    return LampConfig.load([*LISTEN, *argv], environ)


def error_of(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*argv, **environ)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text('lamp = true\nlamp_hue = 3\nlamp-room = ["hall"]\nlamp-script = "blink"\n')
    return path


# ---- a new row, and nothing else ----


def test_new_option_has_its_default() -> None:
    config = load()
    assert (config.lamp, config.lamp_hue, config.lamp_rooms, config.lamp_script) == (False, 120, (), None)
    assert config.mtu == NodeConfig.load(LISTEN, {}).mtu


def test_new_option_is_in_the_help() -> None:
    text = " ".join(parser(LampConfig).format_help().split())
    for says in (
        "--lamp there is a lamp (off) [CRYPRQ_LAMP]",
        "--lamp-hue N degrees; 0 to 360 (120) [CRYPRQ_LAMP_HUE]",
        "--lamp-room NAME where it is seen; repeatable (nowhere) [CRYPRQ_LAMP_ROOMS]",
        "--lamp-script FILE|N how it moves [CRYPRQ_LAMP_SCRIPT, else LAMPS]",
    ):
        assert says in text


def test_new_option_is_taken_from_flag_before_environment_before_file(file: Path) -> None:
    from_file = load(CRYPRQ_CONFIG=str(file))
    assert (from_file.lamp, from_file.lamp_hue, from_file.lamp_rooms) == (True, 3, ("hall",))
    assert from_file.lamp_script == file.parent / "blink"
    environ = {
        "CRYPRQ_CONFIG": str(file),
        "CRYPRQ_LAMP": "False",
        "CRYPRQ_LAMP_HUE": "2",
        "CRYPRQ_LAMP_ROOMS": "attic, cellar",
        "LAMPS": "fade;ignored",
    }
    from_environment = load(**environ)
    assert (from_environment.lamp, from_environment.lamp_hue) == (False, 2)
    assert from_environment.lamp_rooms == ("attic", "cellar")
    assert from_environment.lamp_script == Path("fade")
    assert load(**environ, CRYPRQ_LAMP_SCRIPT="glow").lamp_script == Path("glow")
    flags = ("--lamp", "--lamp-hue", "1", "--lamp-room", "loft", "--lamp-room", "porch", "--lamp-script", "sparkle")
    from_flags = load(*flags, **environ)
    assert (from_flags.lamp, from_flags.lamp_hue, from_flags.lamp_rooms) == (True, 1, ("loft", "porch"))
    assert from_flags.lamp_script == Path("sparkle")


def test_mistake_in_a_new_option_names_its_source(file: Path) -> None:
    assert error_of("--lamp-hue", "361") == "--lamp-hue 361 is out of range: 0 to 360"
    assert error_of(CRYPRQ_LAMP_HUE="361") == "CRYPRQ_LAMP_HUE 361 is out of range: 0 to 360"
    assert error_of(CRYPRQ_LAMP_HUE="red") == "CRYPRQ_LAMP_HUE: 'red' is not a whole number"
    assert error_of(CRYPRQ_LAMP="on") == "CRYPRQ_LAMP: 'on' is neither true nor false"
    assert error_of("--lamp-script", "") == "--lamp-script is empty"
    for text, says in (
        ("lamp-hue = 361", f"{file}: lamp-hue 361 is out of range: 0 to 360"),
        ("lamp-hue = '3'", f"'lamp-hue' in {file} must be a whole number"),
        ("lamp = 1", f"'lamp' in {file} must be true or false"),
        ("lamp-room = [1]", f"'lamp-room' in {file} must be a string or a list of strings"),
        ("lamp-script = true", f"'lamp-script' in {file} must be a string or a whole number"),
        ("lamp-script = ''", f"{file}: lamp-script is empty"),
        ("lamp-hues = 3", f"unknown key 'lamp-hues' in {file}; did you mean 'lamp-hue'?"),
        ("config = 'x'", f"unknown key 'config' in {file}; known are listen, peer,"),
    ):
        file.write_text(f"{text}\n")
        assert error_of("--config", str(file)).startswith(says)
    with pytest.raises(ConfigError, match="--lamp-hue -1 is out of range"):
        LampConfig(listen=load().listen, tun_addresses=load().tun_addresses, lamp_hue=-1)


def test_new_option_is_printed_by_check(file: Path) -> None:
    lines = load("--config", str(file), "--lamp-room", "loft", "--lamp-room", "porch").describe().splitlines()
    assert lines[-5:] == [
        "lamp = true",
        "lamp-hue = 3",
        "lamp-room = loft",
        "lamp-room = porch",
        f"lamp-script = {file.parent / 'blink'}",
    ]
    assert load().describe().splitlines()[-4:] == [
        "lamp = false",
        "lamp-hue = 120",
        "lamp-room = nowhere",
        "lamp-script = none",
    ]


def test_reload_takes_a_new_option_over_or_names_it(file: Path) -> None:
    environ = {"CRYPRQ_CONFIG": str(file), "CRYPRQ_LAMP_SCRIPT": "glow"}
    running = load(**environ)
    file.write_text('lamp-hue = 4\nlamp-room = "attic"\nlamp-script = "fade"\n')
    config, needs_restart = merge(running, load(**environ))
    assert isinstance(config, LampConfig)
    assert config.lamp is False
    assert (config.lamp_hue, config.lamp_rooms) == (3, ("hall",))
    assert needs_restart == ["lamp-hue", "lamp-room"]
    assert config.lamp_script == Path("glow"), "what the environment sets, the file does not change"


def test_new_option_has_a_row_in_the_readme() -> None:
    rows = SCRIPT["settings"](LampConfig).splitlines()
    assert rows[: -len(table(LampConfig)) + len(table(NodeConfig))] == SCRIPT["settings"]().splitlines()
    assert rows[-4:] == [
        "| `--lamp`: there is a lamp | `CRYPRQ_LAMP` | off |",
        "| `--lamp-hue N`: degrees; 0 to 360 | `CRYPRQ_LAMP_HUE` | 120 |",
        "| `--lamp-room NAME`: where it is `seen`; repeatable | `CRYPRQ_LAMP_ROOMS` | nowhere |",
        r"| `--lamp-script FILE\|N`: how it moves | `CRYPRQ_LAMP_SCRIPT`, else `LAMPS` | none |",
    ]


# ---- the rows that there are ----


def test_readme_has_the_table() -> None:
    text = (ROOT / "README.md").read_text()
    assert SCRIPT["replaced"](text) == text, "run scripts/make_settings.py"
    damaged = text.replace("`CRYPRQ_MTU` | 1420 |", "`CRYPRQ_MTU` | 1500 |")
    assert damaged != text
    assert SCRIPT["replaced"](damaged) == text


def test_every_field_but_two_is_an_option() -> None:
    assert {field.name for field in fields(NodeConfig)} - set(table(NodeConfig)) == {
        "doubts",
        "lease_dir",
        "peer_faults",
        "qlog_dir",
        "rotate_records",
    }
    names = [row.name for row in table(NodeConfig).values()]
    variables = [row.env for row in table(NodeConfig).values() if row.env is not None]
    assert len(set(names)) == len(names)
    assert len(set(variables)) == len(variables)


def test_what_a_reload_takes_over() -> None:
    names = {row.name for row in table(NodeConfig).values() if row.reload}
    assert names == {
        *("config", "peer", "allow-peer", "psk-file", "successor", "allow-any", "route", "dns", "search", "accept-dns"),
        *("rotate-secs", "rotate-min-secs", "reauth-secs", "lease-days", "log-level"),
        *("peer-name", "peer-groups", "peer-expires", "disable-peer", "allow-peer-dir", "access"),
    }


def test_every_word_for_a_level_is_one() -> None:
    assert [values.log_level(word) for word in (*values.LOG_LEVELS, "trace", "WARNING")] == [
        *values.LOG_LEVELS,
        "debug",
        "warn",
    ]
