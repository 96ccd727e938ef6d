"""What S3 answers, and what it fails to answer, as errors that say what to do. Nothing that S3 said is quoted: it may hold a key's name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from workflows.errors import BadInput, CountersignError, Problem, Temporary

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
RIGHTS = "the store needs s3:GetObject, s3:ListBucket, s3:PutObject and s3:AbortMultipartUpload; reading alone needs the first two"
AWAY = "is it up, and is AWS_ENDPOINT_URL_S3 its address? The same command goes on from here"
CLOCK = "set the wrong one of the two right (NTP), or run this on another machine; the same command goes on from here"
SKEWED = "RequestTimeTooSkewed"
MOST_SKEW = timedelta(minutes=15)
"""S3 refuses what was signed earlier or later than this by its own clock: who overhears a request cannot use it tomorrow."""

SERVER_ERROR = 500  # from here on the fault is the server's, and may pass
UNANSWERED = 400  # a request without a code that S3 defines: by its status
REFUSED = {
    "InvalidAccessKeyId": CREDENTIALS,
    "SignatureDoesNotMatch": CREDENTIALS,
    "InvalidToken": CREDENTIALS,
    "ExpiredToken": "they have run out: get new ones and " + CREDENTIALS,
    "AccessDenied": RIGHTS,
    "AllAccessDisabled": RIGHTS,
    "403": f"{CREDENTIALS}; {RIGHTS}",
    "NoSuchBucket": "make the bucket, or correct --store (or COUNTERSIGN_STORE)",
    "InvalidBucketName": "correct --store (or COUNTERSIGN_STORE)",
    "PermanentRedirect": "set AWS_REGION to the bucket's region",
    "301": "set AWS_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_REGION to the bucket's region",
    "IllegalLocationConstraintException": "set AWS_REGION to the bucket's region",
}
DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}  # on the way there
PASSING = {
    *DAMAGED,
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "429",
    "RequestTimeout", SKEWED, "InternalError", "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict",
    "IncompleteBody", "QuotaExceeded", "NoSpaceLeftOnDevice", "XMinioStorageFull",
}  # fmt: skip
ABSENT = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
STANDING = {"PreconditionFailed", "412"}


def code_of(error: Exception) -> str:
    """S3's word for what is wrong; empty where it is no answer of S3."""
    answer = getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "unknown")) if isinstance(answer, dict) else ""


def explained(error: Exception, where: str) -> CountersignError:
    """The error to raise for what happened at `where`: `Temporary` if waiting may help, `BadInput` if not. A defect is raised as it is."""
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, IncompleteReadError, SSLError  # noqa: A004  # the name that botocore gave it
    from urllib3.exceptions import HTTPError

    if isinstance(error, ClientError):
        return _answered(error, where)
    if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = "set AWS_CA_BUNDLE to the file of the authority that signed it"
        return BadInput(Problem(what="the certificate of S3 is not signed by anyone trusted here", where=where), hint=hint)
    # A proxy or a server in front of S3 may answer with what is no S3 at all; it is waited for as if it had not answered.
    away = (HTTPClientError, ConnectionError, IncompleteReadError, HTTPError, OSError)
    if isinstance(error, away) or type(error).__name__ == "ResponseParserError":
        return Temporary(Problem(what=f"S3 does not answer: {type(error).__name__}", where=where), hint=AWAY)
    if isinstance(error, BotoCoreError):
        return _unusable(error, where)
    raise error


def _answered(error: Exception, where: str) -> CountersignError:
    code = code_of(error)
    response = error.response  # type: ignore[attr-defined]  # a ClientError
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", UNANSWERED)
    operation = getattr(error, "operation_name", "")
    problem = Problem(what=f"S3 says {code} to {operation}", where=where)
    if is_skewed(error):
        return _skewed(response, where, operation)
    if code in PASSING or status >= SERVER_ERROR:
        return Temporary(problem, hint=AWAY)
    return BadInput(problem, hint=REFUSED.get(code, ""))


def is_skewed(error: Exception) -> bool:
    """Whether S3 refuses because its clock and this machine's are apart. To a HEAD it cannot say why: then its answer's date tells."""
    response = getattr(error, "response", None) or {}
    apart = _apart(response)
    return code_of(error) == SKEWED or (code_of(error) == "403" and apart is not None and abs(apart) > MOST_SKEW)


def _skewed(response: Mapping[str, Any], where: str, operation: str) -> Temporary:
    what = f"S3 refuses {operation}, as this machine's clock and its own are apart ({SKEWED})"
    if (apart := _apart(response)) is None:
        return Temporary(Problem(what=what, where=where), hint=CLOCK)
    ours = datetime.now(UTC)
    problem = Problem(what=what, where=where, expected=f"{ours - apart:%Y-%m-%dT%H:%M:%SZ}", got=f"{ours:%Y-%m-%dT%H:%M:%SZ}")
    return Temporary(problem, hint=CLOCK)


def _apart(response: Mapping[str, Any]) -> timedelta | None:
    """How far this machine's clock is ahead of the server's; None where the answer has no date."""
    said = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return datetime.now(UTC) - parsedate_to_datetime(said)
    except (TypeError, ValueError):  # no date, or one without a zone
        return None


def _unusable(error: Exception, where: str) -> BadInput:
    kind = type(error).__name__
    if any(word in kind for word in ("Credential", "Token", "SSO", "Login", "Profile", "Metadata")):
        return BadInput(Problem(what=f"no credentials for S3 ({kind})", where=where), hint=CREDENTIALS)
    hint = "look at the AWS_ variables and the AWS config file"
    return BadInput(Problem(what=f"S3 cannot be used as it is configured ({kind})", where=where), hint=hint)
