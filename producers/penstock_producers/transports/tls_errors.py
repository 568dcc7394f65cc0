"""What an error of TLS means and what to do, whichever library said it; imports none of them."""

from __future__ import annotations

import re

__all__ = ["say_tls_error"]

#: What OpenSSL, Python and libpq say, and what it means. The first that fits counts; `{name}` begins our variables.
_MEANINGS = [
    # What the server says of our certificate.
    (r"alert certificate required|alert handshake failure|peer did not return a certificate|requires a valid client cert",
     "it wants a certificate of ours: set {name}_TLS_CERTIFICATE and {name}_TLS_KEY"),
    (r"alert (?:unknown ca|bad certificate|unsupported certificate|certificate (?:unknown|expired|revoked))",
     "it does not accept our certificate: have {name}_TLS_CERTIFICATE signed anew, by an authority that it trusts"),
    # What we say of the server's.
    (r"mismatch, certificate is not valid for '(?P<host>[^']*)'",
     "its certificate is not for {host}: use a name that stands in the certificate, or have one made for this name"),
    (r'server certificate for .* does not match host name "(?P<host>[^"]*)"',
     "its certificate is not for {host}: use a name that stands in the certificate, or have one made for this name"),
    (r"certificate has expired", "its certificate has expired: renew it there"),
    (r"certificate is not yet valid", "its certificate is not valid yet: set the clocks, here and there"),
    (r"certificate revoked", "its certificate is revoked: renew it there"),
    (r"certificate verify failed|CERTIFICATE_VERIFY_FAILED|unable to get (?:local )?issuer certificate",
     "its certificate is not signed by an authority that is trusted here: set {name}_TLS_CA to the file of its CA"),
    # With TLS 1.3 our certificate is looked at when we are done already, and what the server says of it may be lost.
    (r"EOF occurred in violation of protocol|unexpected eof while reading|UNEXPECTED_EOF",
     "it hung up: it wants a certificate of ours or does not accept it, which its log tells; see {name}_TLS_CERTIFICATE"),
    # No TLS at all.
    (r"WRONG_VERSION_NUMBER|wrong version number|record layer failure|RECORD_LAYER_FAILURE|server does not support SSL",
     "it speaks no TLS on this port: use the port with TLS"),
    (r"handshake operation timed out", "it does not answer in time, or speaks no TLS on this port: use the port with TLS"),
]  # fmt: skip
_PATTERNS = [(re.compile(pattern), meaning) for pattern, meaning in _MEANINGS]


def say_tls_error(error: BaseException, name: str = "PENSTOCK_BROKER") -> str | None:
    """
    What an error means and what to do; None if it is not one of TLS.

    Args:
        error: Of whatever library. What led to it is looked at too: redis-py says of some only that time was up.
        name: With what the variables begin that would mend it.
    """
    cause: BaseException | None = error
    while cause is not None:
        for pattern, meaning in _PATTERNS:
            if found := pattern.search(str(cause)):
                return "TLS: " + meaning.format(name=name, host=found.groupdict().get("host"))
        cause = cause.__cause__ or cause.__context__
    return None
