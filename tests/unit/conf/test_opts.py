"""Configuration: defaults, refusals, and a sample that tells the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg, generator

from vmsec.conf import opts
from vmsec.conf.agent import AgentSettings
from vmsec.conf.api import APISettings
from vmsec.conf.controller import ControllerSettings
from vmsec.conf.database import DatabaseSettings
from vmsec.conf.kmc import KMCSettings
from vmsec.conf.messaging import MessagingSettings
from vmsec.conf.sealing import SealingSettings
from vmsec.conf.service import ServiceSettings
from vmsec.conf.tpm import TPMSettings
from vmsec.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "etc" / "vmsec" / "vmsec.conf.sample"


def load(directory: Path, text: str = "") -> cfg.ConfigOpts:
    file = directory / "vmsec.conf"
    file.write_text(text)
    return opts.load(["--config-file", str(file)], "vmsec-kmc")


def test_an_empty_file_gives_an_all_in_one_with_software_tpms(
    tmp_path: Path,
) -> None:
    conf = load(tmp_path, "[DEFAULT]\nhost = node-1\n")
    kmc = KMCSettings.from_conf(conf)
    assert kmc.state_directory == Path("/var/lib/vmsec/kmc")
    assert kmc.database.connection == (
        "sqlite:////var/lib/vmsec/kmc/vmsec.sqlite"
    )
    assert kmc.tcti == ""
    assert MessagingSettings.from_conf(conf).transport_url == "fake://"
    agent = AgentSettings.from_conf(conf)
    assert agent.host == kmc.host == "node-1"
    assert not agent.protect_all
    assert agent.offline_start
    assert ControllerSettings.from_conf(conf).transport_url is None
    assert SealingSettings.from_conf(conf).journal_directory is None
    assert APISettings.from_conf(conf).socket_mode == 0o660
    assert TPMSettings.from_conf(conf).timeout_seconds == 30
    assert ServiceSettings.from_conf(conf).host == "node-1"


def test_the_database_follows_the_state_path(tmp_path: Path) -> None:
    conf = load(tmp_path, "[DEFAULT]\nstate_path = /srv/vmsec\n")
    url = DatabaseSettings.from_conf(conf).connection
    assert url == "sqlite:////srv/vmsec/kmc/vmsec.sqlite"


@pytest.mark.parametrize(
    "text",
    [
        "[agent]\nprotect = some\n",
        "[agent]\nhook_deadline = 4\n",
        "[agent]\nseal_budget = soon\n",
        "[sealing]\nlevel = everything\n",
        "[api]\nsocket_mode = 0999\n",
        "[DEFAULT]\nhost = two words\n",
        "[messaging]\nrpc_timeout = 0\n",
        "no section\n",
    ],
)
def test_a_wrong_value_is_refused_when_the_service_starts(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigurationError, match="vmsec-kmc: the conf") as e:
        load(tmp_path, text)
    assert "\n" not in str(e.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.conf"):
        opts.load(["--config-file", str(tmp_path / "absent.conf")], "vmsec")


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    conf = load(
        tmp_path,
        "[messaging]\ntransport_url = rabbit://u:hunter2@h/\n"
        "[controller]\ntransport_url = rabbit://u:hunter2@h/\n"
        "[database]\nconnection = postgresql://u:hunter2@h/vmsec\n",
    )
    shown = repr(MessagingSettings.from_conf(conf))
    shown += repr(ControllerSettings.from_conf(conf))
    shown += repr(KMCSettings.from_conf(conf))
    assert "hunter2" not in shown
    for group, options in opts.list_opts():
        for option in options:
            if option.dest in {"transport_url", "connection"}:
                assert option.secret, (group, option.dest)


def test_every_option_says_what_it_is_for() -> None:
    for _, options in opts.list_opts():
        for option in options:
            assert option.help is not None
            assert len(option.help) > 20, option.name


def test_every_number_has_a_range() -> None:
    for _, options in opts.list_opts():
        for option in options:
            if isinstance(option, cfg.IntOpt | cfg.FloatOpt):
                kind: Any = option.type
                assert kind.min is not None, option.name
                assert kind.max is not None, option.name


def test_the_sample_file_has_not_drifted(tmp_path: Path) -> None:
    """Run oslo-config-generator with the file under etc/vmsec to renew it.

    Only vmsec's own part is compared: the libraries' parts change with
    their releases.
    """
    fresh = tmp_path / "sample"
    generator.main(
        [
            "--namespace=vmsec",
            "--wrap-width=79",
            f"--output-file={fresh}",
        ]
    )
    kept = SAMPLE.read_text().split("\n\n")
    for stanza in fresh.read_text().split("\n\n"):
        assert stanza.strip() in {part.strip() for part in kept}, stanza
    names = [o.name for _, options in opts.list_opts() for o in options]
    sample = SAMPLE.read_text()
    assert all(f"\n#{name} =" in sample for name in names)
