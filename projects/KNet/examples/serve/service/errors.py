"""What a client is told when there is no answer."""

from typing import Dict, Optional


class RequestError(Exception):
    """Becomes ``{"error": {"code", "message"}}``.

    Attributes:
        status: of HTTP.
        code: for programs.
        message: one sentence for people.
        headers: of the response.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Optional[Dict[str, str]] = None
    ):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}

    @property
    def body(self) -> Dict:
        return {"error": {"code": self.code, "message": self.message}}
