"""Find out whether a name or a value may be that of a secret: a key, token, password or signature; and hide it."""

from __future__ import annotations

import json
import os
import re
from urllib.parse import quote, quote_plus

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
_QUERY = re.compile(r"([?&]([^=&#\s]+)=)[^&#\s'\"]+")
# a user with a password, which may hold a '/'; a user alone, but for the container of abfs and anonymous on gs
_USER = re.compile(
    r"(?P<scheme>\w+:/{0,2})[^\s@'\"]+:[^\s@'\"]*@|(?<=://)(?<!abfs://)(?<!abfss://)(?<!gs://)[^/@\s'\"]+@"
)
_SHORTEST = 8  # characters: a shorter value of the environment may stand anywhere in a text
_FOLDERS = ("PWD", "OLDPWD")  # the shell's current folder and the one before, no passwords
_JUDGE_KEY = re.compile(r"(\w+_)?API_?KEY(_\w+)?|\w*JUDGE\w*", re.IGNORECASE)
_OF_OTHERS = re.compile(r"(AWS|AMAZON|WANDB|COMET|MLFLOW|GITHUB|GITLAB|NGC|KAGGLE)_", re.IGNORECASE)


def looks_secret(name: str) -> bool:
    """Return whether the name of a key, an option or a URL parameter looks like that of a secret.

    The spelling (upper or lower case, '_', '-', camel case) makes no difference: 'hf_token', 'apiKey' and
    'X-Amz-Signature' look secret, 'max_new_tokens', 'pad_token' and 'tokenizer' do not.
    """
    return _NAME.search(f"_{'_'.join(_WORDS.findall(name)).lower()}_") is not None


def holds_secret(value: str) -> bool:
    """Return whether a text has a URL with a user or password, or with a parameter whose name looks secret."""
    return _LOGIN.search(value) is not None or any(looks_secret(name) for name in _QUERY_NAME.findall(value))


def may_go_to_judge(name: str) -> bool:
    """Return whether an environment variable may be sent to a judge: 'OPENAI_API_KEY', 'MY_JUDGE_KEY'; no storage's."""
    return _JUDGE_KEY.fullmatch(name) is not None and _OF_OTHERS.match(name) is None


def masked(text: str) -> str:
    """Return a text for people, with '***' for users and passwords in URLs and for the secrets of the environment.

    Secrets of the environment are the values, of 8 characters or more, of the variables whose names look secret: the
    value itself, without the spaces and line ends around it, as `repr` or JSON write it, and percent-encoded.
    """
    text = _USER.sub(lambda match: f"{match['scheme'] or ''}***@", text)
    text = _QUERY.sub(lambda match: f"{match[1]}***" if looks_secret(match[2]) else match[0], text)
    for name, value in os.environ.items():
        if len(value.strip()) >= _SHORTEST and looks_secret(name) and name not in _FOLDERS:
            text = without(text, value)
    return text


def without(text: str, secret: str) -> str:
    """Return a text with '***' for a secret, however the text writes it; unchanged if the secret is empty."""
    for form in _forms(secret) if secret.strip() else ():
        text = text.replace(form, "***")
    return text


def _forms(value: str) -> list[str]:
    """Return the ways in which messages write a value, the longest first."""
    bare = value.strip()
    in_one_line = bare.replace("\r", "").replace("\n", "")  # as the hub's client sends it
    forms = {value, bare, in_one_line}
    for one in (value, bare, in_one_line):
        raw = one.encode(errors="surrogateescape")
        forms |= {repr(one)[1:-1], repr(raw)[2:-1], json.dumps(one)[1:-1]}
        forms |= {json.dumps(one, ensure_ascii=False)[1:-1], quote(raw, safe=""), quote(raw), quote_plus(raw)}
    return sorted(forms, key=len, reverse=True)


def header_value(value: str) -> str | None:
    """Return a secret of the environment without the line end and spaces around it; None if no HTTP header takes it."""
    bare = value.strip()
    return bare if bare.isascii() and bare.isprintable() and " " not in bare else None
