"""One cluster's Serve document: ours changed, everybody else's as it was."""

from typing import Any

import pytest

from socadapter_api.errors import ForeignObject, SpecError
from socadapter_operator.backends import ray_applications

OURS = ray_applications.application("socadapter.soc.base", "/soc/base", '{"a": 1}', "sha256:1", {"generation": 3}, 1)
THEIRS = {"name": "chat", "import_path": "chat:app", "runtime_env": {"env_vars": {"KEY": "value"}}}
OPTIONS = {"host": "127.0.0.1", "port": 8000}


def details(**applications: Any) -> dict[str, Any]:
    return {"applications": {config["name"]: {"status": status, "deployed_app_config": config, "message": None}
                             for status, config in applications.items()}}  # fmt: skip


def test_others_stay_as_they_are() -> None:
    """Added, changed or taken away: the other application's entry is the same, values included."""
    before = details(RUNNING=THEIRS)
    added = ray_applications.replaced(before, OURS["name"], OURS, OPTIONS)
    assert [THEIRS, OURS] == added["applications"]
    both = details(RUNNING=THEIRS, DEPLOYING=OURS)
    changed = OURS | {"args": {}}
    assert [THEIRS, changed] == ray_applications.replaced(both, OURS["name"], changed, OPTIONS)["applications"]
    assert [THEIRS] == ray_applications.replaced(both, OURS["name"], None, OPTIONS)["applications"]


def test_what_goes_away_is_not_brought_back() -> None:
    """An application that is being deleted, and one that was deployed by code, are not written."""
    by_code = {"applications": {"notebook": {"status": "RUNNING", "deployed_app_config": None}}}
    assert [] == ray_applications.replaced(details(DELETING=THEIRS), OURS["name"], None, OPTIONS)["applications"]
    assert [] == ray_applications.replaced(by_code, OURS["name"], None, OPTIONS)["applications"]


def test_settings_of_the_whole_cluster_stay() -> None:
    """Where Serve runs, its own options go back; where it does not, the pool's are used."""
    running = {"http_options": {"host": "0.0.0.0", "port": 9000}, "target_capacity": 50, "proxy_location": "HeadOnly"}
    told = ray_applications.replaced(running | details(), OURS["name"], OURS, OPTIONS)
    assert running == {key: told[key] for key in running}
    assert OPTIONS == ray_applications.replaced({"target_capacity": None}, OURS["name"], OURS, OPTIONS)["http_options"]


def test_hidden_values_are_never_written_back() -> None:
    """A dashboard that takes us for a browser would make us overwrite another application's secrets."""
    hidden = THEIRS | {"runtime_env": {"env_vars": {"KEY": "<redacted>"}}}
    with pytest.raises(SpecError, match="'chat'"):
        ray_applications.replaced(details(RUNNING=hidden), OURS["name"], OURS, OPTIONS)


def test_foreign_code_under_our_name_is_not_adopted() -> None:
    """The error names the application and what it runs."""
    with pytest.raises(ForeignObject, match="chat:app"):
        ray_applications.find(details(RUNNING=THEIRS), "chat")


def test_what_is_being_deleted_is_nobodys() -> None:
    """Ray tells no configuration of it any more; it is neither foreign nor ours to delete again."""
    leaving = {"applications": {OURS["name"]: {"status": "DELETING", "deployed_app_config": None}}}
    found = ray_applications.find(leaving, OURS["name"])
    assert found is not None
    assert ("DELETING", "", None) == (found.status, found.digest, found.table)


def test_ours_is_read_back() -> None:
    """Table, digest and starts of what was written; a failed start makes another document of the same configuration."""
    found = ray_applications.find(details(RUNNING=OURS), OURS["name"])
    assert found is not None
    assert ({"generation": 3}, "sha256:1", 1) == (found.table, found.digest, found.starts)
    again = ray_applications.application("n", "/", "{}", "sha256:1", {}, 2)
    assert again["runtime_env"] != ray_applications.application("n", "/", "{}", "sha256:1", {}, 1)["runtime_env"]


def test_no_secret_stands_where_a_browser_sees_it() -> None:
    """The configuration is a value of `env_vars`, which the dashboard hides, and nowhere else."""
    ours = ray_applications.application("n", "/", "top-secret", "sha256:1", {}, 1)
    ours["runtime_env"].pop("env_vars")
    assert "top-secret" not in str(ours)
