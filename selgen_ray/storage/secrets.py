"""One answer to the question whether a name or a value may hold a secret: a key, token, password or signature."""

from __future__ import annotations

import re

# 'apiKey', 'APIKey' and 'api-key' are api_key
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
# '_a_b_' -> a secret. A 'key' alone is one in an option of a URL, not so 'answer_key' or 'keys'; 'tokens' are counted
_NAME = re.compile(
    r"_(pass(wd|word|phrase|code)|pwd|secrets?|credentials?|sig|signature|sas|bearer|authorization|[a-z]*apikey)_"
    r"|_(api|access|account|app|auth|private|secret|shared|signing|ssh|storage|write|read)_keys?_"
    r"|^_key_$|_pass_$"
    r"|(?<!_bos)(?<!_eos)(?<!_pad)(?<!_unk)(?<!_sep)(?<!_cls)(?<!_mask)(?<!_stop)(?<!_per)(?<!_new)_token_$"
    r"|_(accesskey|secretkey|privatekey|accesstoken|authtoken)_"
)
_LOGIN = re.compile(r"://[^/@\s]*@")
_QUERY_NAME = re.compile(r"[?&]([^=&#\s]+)=")


def looks_secret(name: str) -> bool:
    """Return whether a key of a file, an option or a parameter of a URL is named as a secret is.

    Upper and lower case, '_', '-' and camel case make no difference: 'hf_token', 'apiKey' and 'X-Amz-Signature' are
    secrets, 'max_new_tokens', 'pad_token' and 'tokenizer' are not.
    """
    return _NAME.search(f"_{'_'.join(_WORDS.findall(name)).lower()}_") is not None


def holds_secret(value: str) -> bool:
    """Return whether a text has a URL with a user or password, or with a parameter that is named as a secret is."""
    return _LOGIN.search(value) is not None or any(looks_secret(name) for name in _QUERY_NAME.findall(value))
