"""Push a finished model to the hub; the token comes from the environment alone."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path, PurePath

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.errors import ModelError
from selgen_ray.models.files import hub_reason
from selgen_ray.storage.parallel import waiting
from selgen_ray.storage.secrets import header_value

_TOKEN = "HF_TOKEN"
_NO_TOKEN = "holds a space, a line end or a letter that no token has"


def check_push(config: FinetuneConfig) -> None:
    """Check that a push can be expected to work, if the config asks for one: the hub is asked to accept the token.

    Raises:
        ModelError: there is no token, or the hub does not accept it.
    """
    if config.push_to_hub and (problem := _problem(os.environ.get(_TOKEN))):
        raise ModelError(f"finetune_config.push_to_hub: {problem}")


@functools.lru_cache(maxsize=1)  # one request for all trials of a plan
def _problem(token: str | None) -> str | None:
    from huggingface_hub import HfApi, constants, errors

    if (token := header_value(token or "")) is None:
        return f"{_TOKEN} {_NO_TOKEN}: set it to the token alone"
    if not token:
        return f"{_TOKEN} is not set: set it to a token that may write, or leave push_to_hub out"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or leave push_to_hub out"
    try:
        HfApi(token=token).whoami()
    except Exception as error:
        refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403)
        return f"the hub does not take the token in {_TOKEN}" if refused else hub_reason(error)
    return None


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder as a model and return its URL. An existing repository of that name is updated.

    Raises:
        ModelError: the hub refused it, or `private` was asked for and the repository exists and is public; the message
            holds no token.
    """
    from huggingface_hub import HfApi

    token = header_value(os.environ.get(_TOKEN, ""))
    if not token:
        wrong = "is not set" if token is not None else _NO_TOKEN
        raise ModelError(f"{_TOKEN} {wrong} where the trial ran")
    api = HfApi(token=token)
    _name_the_base(folder / "adapter_config.json")
    try:
        with waiting():
            place = api.create_repo(repository, private=private, exist_ok=True)
            is_private = api.model_info(place.repo_id).private
            if private and not is_private:
                raise ModelError(f"{place.repo_id} is there already and public, and push_to_private is true")
            api.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message="Add the finished model")
    except ModelError:
        raise
    except Exception as error:  # many kinds: HTTP errors, timeouts, those of the upload's own checks
        raise ModelError(f"{repository}: {hub_reason(error)}") from None
    return str(place)


def _name_the_base(adapter_config: Path) -> None:
    """Replace a local path of the base in an adapter's config by its last part: a path of this machine is private."""
    if not adapter_config.exists():
        return
    content = json.loads(adapter_config.read_text(encoding="utf-8"))
    base = PurePath(str(content.get("base_model_name_or_path") or ""))
    if base.is_absolute():
        content["base_model_name_or_path"] = base.name
        adapter_config.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
