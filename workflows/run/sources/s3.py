"""A source that is an object in S3: `s3://bucket/key`. Endpoint and credentials come from the AWS environment variables."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from workflows.declare import Source
from workflows.errors import BadInput, Problem, Temporary

SERVER_ERROR = 500  # from here on the fault is the server's, and may pass


class S3:
    """The adapter for objects in S3."""

    def suffix(self, source: Source) -> str:
        return PurePosixPath(urlsplit(source.at).path).suffix

    def take(self, source: Source, to: Path) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        where = urlsplit(source.at)
        config = Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 4, "mode": "standard"})
        try:
            boto3.Session().client("s3", config=config).download_file(where.netloc, where.path.lstrip("/"), str(to))
        except NoCredentialsError as error:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise BadInput(Problem(what="no credentials for S3", where=source.at), hint=hint) from error
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            kind = Temporary if status >= SERVER_ERROR or code in {"SlowDown", "RequestTimeout"} else BadInput
            raise kind(Problem(what=f"S3 says {code}", where=source.at)) from error
        except BotoCoreError as error:
            raise Temporary(Problem(what=f"S3 does not answer: {type(error).__name__}", where=source.at)) from error
