"""The application's configuration: one JSON file, the same in a cluster and in local mode.

Secrets are values here, so the file is readable by its owner only and is named to Ray by its path, never by its
content: what is handed to Ray Serve as an argument shows in its dashboard. Where nobody can put a file, on a Ray
cluster that is reached by its REST API alone, the same document is the value of an environment variable, and its name
stands for the path. Written by the operator's backends, read by `app.build_app` and by every replica.
"""

import json
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from socadapter_api.errors import SecretNotFound, SpecError
from socadapter_api.model import Contract
from socadapter_api.pool import PoolSpec, SocServingPool, refuse_insecure_bind
from socadapter_api.training import KeyRef

BASE_MODEL_ALIAS = "base"
"""The name under which the base without an adapter may be asked for, whatever its own name is."""


class Limits(Contract):
    """What one request, and all of them together, may take."""

    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="A larger body is refused with 413.")
    max_chat_characters: int = Field(default=32_768, ge=1, description="Of a chat's messages together; more: 413.")
    max_chat_tokens: int = Field(
        default=2048, ge=64, description="Of a chat and its answer, in the in-process engine; more: 400."
    )
    max_concurrent: int = Field(default=64, ge=1, description="Requests in work; more are refused with 503.")
    request_timeout_s: float = Field(default=300.0, gt=0.0, description="Then the request is answered with 504.")
    load_timeout_s: float = Field(
        default=60.0, gt=0.0, description="A version waits so long for a place in the engine."
    )
    fetch_timeout_s: float = Field(
        default=600.0, gt=0.0, description="The adapter store has so long to give a version's files; then again."
    )
    max_shadows: int = Field(default=4, ge=0, description="Shadow investigations at once; more are skipped.")


class ServeConfig(Contract):
    """Everything the application is told besides the serving table."""

    pool: SocServingPool
    state_dir: Path = Field(description="Database, and in local mode table, reports and endpoint.")
    cache_dir: Path = Field(description="Unpacked bases and verified adapters, by digest.")
    trusted_keys: tuple[str, ...] = Field(default=(), description="PEM public keys besides the pool's own.")
    tokens: dict[str, str] = Field(default_factory=dict, description="Secrets by 'NAME/KEY'; 'engine': an API key.")
    num_cpus: Annotated[float, Field(gt=0.0)] | None = Field(default=None, description="For the local Ray; empty: all.")
    limits: Limits = Limits()

    @field_validator("state_dir", "cache_dir")
    @classmethod
    def _at_home(cls, path: Path) -> Path:
        """A path below ``~`` is below the home folder of whoever serves."""
        return path.expanduser()

    @property
    def spec(self) -> PoolSpec:
        return self.pool.spec

    @property
    def adapters_dir(self) -> Path:
        """Where verified adapters are kept."""
        return self.cache_dir / "adapters"

    @property
    def public_keys(self) -> tuple[str, ...]:
        """Every key that may have signed an adapter, without repeats."""
        return tuple(dict.fromkeys((*self.spec.trust.public_keys, *self.trusted_keys)))

    def secret(self, ref: KeyRef) -> str:
        """The value of `ref`.

        Raises:
            SecretNotFound: the configuration holds no such value.
        """
        for key in (f"{ref.name}/{ref.key}", ref.name):
            if key in self.tokens:
                return self.tokens[key].strip()
        raise SecretNotFound(
            f"secret {ref.name!r} has no key {ref.key!r} in the serving configuration: create it, or mend the reference"
        )

    def caller_tokens(self) -> dict[str, str]:
        """Each caller's bearer token, by the caller's name."""
        return {caller.name: self.secret(caller.token_secret_ref) for caller in self.spec.callers}

    def tool_tokens(self) -> dict[str, str]:
        """Each tool server's bearer token, by the server's name."""
        return {
            server.name: self.secret(server.token_secret_ref)
            for server in self.spec.tools
            if server.token_secret_ref is not None
        }


IN_ENVIRONMENT = "env:"
"""Before the name of an environment variable that holds the configuration itself."""


def read_config(source: Path | str) -> ServeConfig:
    """The configuration in the file `source`, or in the environment variable that ``env:NAME`` names.

    Raises:
        SpecError: there is no such file or variable, or it is not a configuration.
        InsecureBind: it would serve another address than loopback to anyone.
    """
    try:
        config = ServeConfig.model_validate(json.loads(_content(str(source))))
    except (OSError, ValueError) as error:
        detail = _without_values(error) if isinstance(error, ValidationError) else str(error)
        raise SpecError(f"serving configuration {source}: {detail}") from None
    refuse_insecure_bind(config.spec)
    return config


def _content(source: str) -> str | bytes:
    if not source.startswith(IN_ENVIRONMENT):
        return Path(source).read_bytes()
    text = os.environ.get(source.removeprefix(IN_ENVIRONMENT))
    if text is None:
        raise ValueError("no such environment variable")
    return text


def base_model_name(spec: PoolSpec) -> str:
    """The model id of the base without an adapter: its URI's last part, or the Hugging Face id."""
    scheme, found, rest = spec.base.uri.partition("://")
    name = rest if found else scheme
    is_path = name.startswith((".", "/")) or (found and scheme != "builtin")
    return name.rstrip("/").rpartition("/")[2] if is_path else name


def _without_values(error: ValidationError) -> str:
    """What is wrong, without the values: they may be secrets."""
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
