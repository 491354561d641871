"""Which names and values are taken for secrets: one answer for search spaces, trackers and storage paths."""

import pytest

from selgen_ray.storage.secrets import holds_secret, looks_secret

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
