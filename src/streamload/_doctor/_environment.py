"""What the environment says of credentials and CUDA, without a value that may be secret.

Part of `_doctor`; reads the mapping it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Environment"]

_PATHS: Final = (
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_CONFIG_DIR",
    "CLOUDSDK_CONFIG",
    "HF_HOME",
    "HF_TOKEN_PATH",
    "HOME",
)
# Of these, only that they are set.
_SECRETS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CLIENT_ID",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)


@dataclass(frozen=True, slots=True)
class Environment:
    """Hold what the checks need of an environment.

    Attributes:
        present: Names of the variables with credentials that are set; never their values.
        paths: Values of the variables that name files and directories.
        module_loading: CUDA_MODULE_LOADING; "" where it is not set.
    """

    present: frozenset[str]
    paths: Mapping[str, str]
    module_loading: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Environment:
        """Take what is needed from a mapping such as `os.environ`."""
        return cls(
            present=frozenset(name for name in _SECRETS if environ.get(name)),
            paths={name: path for name in _PATHS if (path := environ.get(name))},
            module_loading=environ.get("CUDA_MODULE_LOADING", ""),
        )
