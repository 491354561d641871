"""Which names and values are taken for secrets: one answer for search spaces, trackers and storage paths."""

import json
import re
from urllib.parse import quote, quote_plus

import pytest

from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder
from selgen_ray.storage.locations import check_location
from selgen_ray.storage.retries import explain
from selgen_ray.storage.secrets import header_value, holds_secret, looks_secret, masked, may_go_to_judge

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


@pytest.mark.parametrize("value", ["hf_SECRETsecret123\n", " pa ss\"wo'rd/+\n", "hf_SEC\nRETsecret", "Schlüssel1\r\n"])
def test_a_secret_is_hidden_however_a_message_writes_it(monkeypatch, value):
    monkeypatch.setenv("MY_TOKEN", value)
    bare = value.strip()
    raw = bare.encode()
    written = [value, bare, repr(value), repr(bare), repr(f"Bearer {value}".encode()), json.dumps(bare), quote(bare)]
    written += [quote(raw, safe=""), quote_plus(value), repr(f"Bearer {bare}".encode()), json.dumps({"a": value})]
    for text in written:
        shown = masked(f"Illegal header value {text}")
        assert "***" in shown and "secret" not in shown.lower() and "rd" not in shown and "l1" not in shown, shown


def test_a_header_takes_a_secret_without_the_line_end_after_it():
    assert header_value(" hf_abc\r\n") == "hf_abc" and header_value("\n") == ""
    assert [header_value(one) for one in ("hf a", "hf_a\nb", "hf_ä", "hf_\x7f")] == [None] * 4


@pytest.mark.parametrize(
    "location",
    [
        *("s3:///KEY:SE/CRET@bucket/x", "s3:///KEY:SECRET@b", "S3:/KEY:SECRET@bucket", "Gs:KEY:SECRET@bucket"),
        *(" s3:/KEY:SECRET@b", "s3//KEY:SECRET@bucket", "s3;//KEY:SECRET@b", "gs://b/KEY:SECRET@bucket"),
    ],
)
def test_credentials_in_a_location_are_refused_wherever_they_stand(location):
    with pytest.raises(StorageError) as refused:
        Folder(location)
    assert not {"KEY", "SECRET", "CRET"} & set(re.findall(r"\w+", str(refused.value))), refused.value


def test_a_colon_or_an_at_in_a_path_is_no_credential(tmp_path):
    for location in ("s3://bucket/me@home/x", "s3://bucket/me@12:30", str(tmp_path / "a:b@c")):
        check_location(location)
