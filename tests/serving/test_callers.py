"""Who may call, and for which context."""

import pytest

from socadapter_api.errors import CallerForbidden, InsecureBind, SpecError, Unauthorized
from socadapter_api.pool import Caller, PoolSpec, is_loopback, refuse_insecure_bind
from socadapter_api.serving_table import ContextRoute
from socadapter_api.training import KeyRef
from socadapter_serve.auth import ANYONE, Callers, Identity

SOAR, ANALYST = "soar-token-0123456789", "analyst-token-0123456789"


def caller(name: str, *contexts: str) -> Caller:
    return Caller(name=name, token_secret_ref=KeyRef(name=name, key="token"), contexts=contexts)


def callers() -> Callers:
    return Callers((caller("soar"), caller("analyst", "cloud")), {"soar": SOAR, "analyst": ANALYST})


@pytest.mark.parametrize(
    ("header", "name"),
    [
        pytest.param(f"Bearer {SOAR}", "soar", id="first"),
        pytest.param(f"bearer  {ANALYST}", "analyst", id="scheme in lower case"),
    ],
)
def test_a_token_names_its_caller(header: str, name: str) -> None:
    """The token alone decides who calls."""
    assert name == callers().identify(header).name


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {SOAR}", "Bearer wrong", f"Bearer {SOAR}x", f"Bearer {SOAR[:-1]}"]
)
def test_anything_else_is_refused(header: str | None) -> None:
    """No token, another scheme, or a token that is nearly right."""
    with pytest.raises(Unauthorized):
        callers().identify(header)


def test_without_callers_everyone_on_this_machine_may_call() -> None:
    """Loopback needs no token."""
    assert Callers((), {}).identify(None) == ANYONE


@pytest.mark.parametrize(
    ("identity", "route_callers", "allowed"),
    [
        pytest.param(Identity("soar"), (), True, id="no lists"),
        pytest.param(Identity("analyst", frozenset({"cloud"})), (), True, id="own list names it"),
        pytest.param(Identity("analyst", frozenset({"network"})), (), False, id="own list leaves it out"),
        pytest.param(Identity("soar"), ("analyst",), False, id="route's list leaves the caller out"),
        pytest.param(Identity("soar"), ("soar",), True, id="route's list names the caller"),
        pytest.param(Identity("soar", frozenset({"network"})), ("soar",), False, id="both must allow"),
    ],
)
def test_both_lists_must_allow(identity: Identity, route_callers: tuple[str, ...], allowed: bool) -> None:
    """A caller uses a context where its own list and the route's let it."""
    route = ContextRoute(context="cloud", callers=route_callers)
    assert allowed == identity.may_use(route)
    if not allowed:
        with pytest.raises(CallerForbidden, match="cloud"):
            identity.require(route)


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param({"soar": "0123", "analyst": ANALYST}, id="short"),
        pytest.param({"soar": SOAR, "analyst": SOAR}, id="shared"),
    ],
)
def test_weak_tokens_are_refused(tokens: dict[str, str]) -> None:
    """A token that can be guessed, or that two callers share, starts nothing; the error does not show it."""
    with pytest.raises(SpecError) as caught:
        Callers((caller("soar"), caller("analyst")), tokens)
    assert not any(token in str(caught.value) for token in tokens.values())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.7", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_only_loopback_is_served_without_callers(host: str, loopback: bool) -> None:
    """Any other address needs at least one caller."""
    assert loopback == is_loopback(host)
    base = {"base": {"uri": "b"}, "store": "s", "host": host}
    refuse_insecure_bind(PoolSpec.model_validate({**base, "callers": [caller("soar")]}))
    if loopback:
        refuse_insecure_bind(PoolSpec.model_validate(base))
    else:
        with pytest.raises(InsecureBind):
            refuse_insecure_bind(PoolSpec.model_validate(base))
