"""Which names and values are taken for secrets: one answer for search spaces, trackers and storage paths."""

import pytest

from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder
from selgen_ray.storage.retries import explain
from selgen_ray.storage.secrets import holds_secret, looks_secret, masked, may_go_to_judge

SECRET = [
    *("key", "api_key", "apiKey", "APIKey", "API_KEY", "api-key"),
    *("apikey", "openai_api_key", "wandb_api_key", "access_key", "AWSAccessKeyId", "aws_secret_access_key"),
    *("secret_key", "account_key", "private_key", "storage_key", "token", "hf_token"),
    *("HF_TOKEN", "write_token", "tracking_token", "sessionToken", "X-Amz-Security-Token", "X-Amz-Signature"),
    *("X-Amz-Credential", "sig", "signature", "sas", "SharedAccessSignature", "secret"),
    *("client_secret", "secrets", "password", "db_password", "passwd", "pwd"),
    *("passphrase", "credentials", "authorization"),
]
NO_SECRET = [
    *("keys", "keyboard", "monkey", "answer_key", "primary_key", "keystone"),
    *("tokens", "tokenizer", "max_new_tokens", "num_tokens", "tokens_per_s", "pad_token"),
    *("eos_token", "pass_at_k", "passes", "bypass", "significance", "signal_to_noise"),
    *("region", "endpoint_override", "author", "secretary", "learning_rate", "max_new_token"),
    *("compass",),
]


@pytest.mark.parametrize("name", SECRET)
def test_a_name_of_a_secret(name):
    assert looks_secret(name) and holds_secret(f"https://host/path?a=b&{name}=x")


@pytest.mark.parametrize("name", NO_SECRET)
def test_a_name_of_no_secret(name):
    assert not looks_secret(name) and not holds_secret(f"https://host/path?a=b&{name}=x#here")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://me:pass@host/", True),
        ("postgresql://me@host/db", True),
        ("https://host/@me", False),
        ("me@host", False),
        ("sqlite:///mlflow.db", False),
        ("what is a key=? and a token", False),
    ],
)
def test_a_value_with_a_secret(value, expected):
    assert holds_secret(value) is expected


@pytest.mark.parametrize(
    "location", ["s3:/KEY:SE/CR+ET@bucket/x", "s3:KEY:SECRET@bucket", "gs:/KEY:SECRET@bucket", "abfs:KEY@x"]
)
def test_a_location_with_a_forgotten_slash_is_not_repeated_with_its_credentials(location):
    with pytest.raises(StorageError) as refused:
        Folder(location)
    shown = str(refused.value)
    assert "did you mean" in shown and "KEY" not in shown and "CR" not in shown


def test_what_is_shown_hides_logins_options_and_the_environments_secrets(monkeypatch):
    monkeypatch.setenv("MY_STORE_SECRET_KEY", "hunter2hunter2")
    monkeypatch.setenv("MY_SHORT_TOKEN", "on")
    monkeypatch.setenv("MY_REGION", "eu-central-1")
    text = "PUT s3://KEY:SE/CRET@bucket/a and https://tok123@host/?region=eu-central-1&sig=abc but hunter2hunter2 is on"
    assert masked(text) == "PUT s3://***@bucket/a and https://***@host/?region=eu-central-1&sig=*** but *** is on"
    assert masked("abfs://container@account/x at me@host, 12:30") == "abfs://container@account/x at me@host, 12:30"
    assert "hunter2" not in explain(OSError("no: hunter2hunter2"), "s3://bucket")


def test_a_judge_gets_a_key_that_is_for_one_and_no_other_variable():
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "my_judge_token", "JUDGE", "API_KEY", "OPENAI_API_KEY_2"):
        assert may_go_to_judge(name), name
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "PATH", "SSH_KEY", "DB_PASSWORD"):
        assert not may_go_to_judge(name), name


def test_the_folder_that_one_is_in_is_no_secret(monkeypatch):
    monkeypatch.setenv("PWD", "/home/somebody/work")
    monkeypatch.setenv("DB_PWD", "tell-nobody")
    assert masked("tell-nobody: /home/somebody/work/sweeps") == "***: /home/somebody/work/sweeps"
