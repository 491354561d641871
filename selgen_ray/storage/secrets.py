"""Find out whether a name or a value may be that of a secret: a key, token, password or signature."""

from __future__ import annotations

import re

# 'apiKey', 'APIKey' and 'api-key' are api_key
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
# matched against '_a_b_' for a name a_b. 'key' alone is a secret in a URL's options, 'answer_key' and 'keys' are not;
# 'tokens', in the plural, are a number
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
    """Return whether the name of a key, an option or a URL parameter looks like that of a secret.

    The spelling (upper or lower case, '_', '-', camel case) makes no difference: 'hf_token', 'apiKey' and
    'X-Amz-Signature' look secret, 'max_new_tokens', 'pad_token' and 'tokenizer' do not.
    """
    return _NAME.search(f"_{'_'.join(_WORDS.findall(name)).lower()}_") is not None


def holds_secret(value: str) -> bool:
    """Return whether a text has a URL with a user or password, or with a parameter whose name looks secret."""
    return _LOGIN.search(value) is not None or any(looks_secret(name) for name in _QUERY_NAME.findall(value))
