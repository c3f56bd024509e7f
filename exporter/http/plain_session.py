"""A session of requests without the features of a browser."""

from typing import Any

import requests

from exporter.http.adapter import DeadlineAdapter


class PlainSession(requests.Session):
    """A session without redirects, cookies, hooks, .netrc and the environment's proxies.

    Only one request at a time may be in flight, on the one connection that is kept.

    Args:
        max_response_size: bytes of one body as it is transferred.
    """

    def __init__(self, max_response_size: int) -> None:
        super().__init__()
        self.trust_env = False
        adapter = _PlainAdapter(max_response_size)
        for scheme in ("https://", "http://"):
            self.mount(scheme, adapter)

    def send(self, request: requests.PreparedRequest, **keywords: Any) -> requests.Response:
        """Send a request, and return its response; a redirect is returned, not followed.

        requests' own would prepare the redirect's request although it does not follow it, and read
        and inflate the redirect's whole body for that, without a limit.

        Args:
            request: as `prepare_request` returns it.
            keywords: of the adapter, such as a `TimeLeft` as `timeout`.

        Raises:
            Exception: whatever requests, urllib3 and http.client raise.
        """
        adapter = self.get_adapter(request.url or "")
        return adapter.send(request, verify=self.verify or True, **keywords)


class _PlainAdapter(DeadlineAdapter):
    def build_response(self, request: requests.PreparedRequest, raw: Any) -> requests.Response:
        return _PlainResponse(request, raw)


class _PlainResponse(requests.Response):
    """A response without cookies, without a history and without a guess at its encoding.

    Nothing reads these, and making them would take a twentieth of a small poll's time.

    Args:
        request: what was sent.
        raw: urllib3's response.
    """

    def __init__(self, request: requests.PreparedRequest, raw: Any) -> None:
        self.status_code = raw.status
        self.headers = raw.headers  # they ignore case too
        self.raw = raw
        self.request = request
        self._content_consumed = False  # so that `close` closes `raw`
