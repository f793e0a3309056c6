"""Servers that metrics are sent to: StatsD over UDP, and OpenTelemetry over HTTP."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from local_stack.processes import Stoppable
from tests.support.versions import OTEL_BY_ITS_OWN_VARIABLES


class Collector(Stoppable):
    """What was received: by name, each number as it came."""

    environment: dict[str, str]

    def __init__(self) -> None:
        self.received: dict[str, list[float]] = defaultdict(list)

    def of(self, dag_id: str) -> dict[str, list[float]]:
        prefix = f"airflow.xcom_maintenance.{dag_id}."
        found = list(self.received.items())
        return {name.removeprefix(prefix): values for name, values in found if name.startswith(prefix)}


class Statsd(Collector):
    """Reads the lines of ``name:value|kind``; the kind is kept as part of the name's values' own list."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.environment = {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
        }

    def _listen(self) -> None:
        while not self._stopped.is_set():
            try:
                packet = self._socket.recv(65_536).decode()
            except TimeoutError:
                continue
            for line in packet.splitlines():
                name, _, rest = line.partition(":")
                value, self.kinds[name], *_ = rest.split("|")
                self.received[name].append(float(value))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()


class Otlp(Collector):
    """Takes what OpenTelemetry exports as protobuf; of a histogram, the sum."""

    def __init__(self) -> None:
        super().__init__()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                request = ExportMetricsServiceRequest.FromString(body)
                metrics = (m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics)
                for metric in metrics:
                    data: Any = getattr(metric, metric.WhichOneof("data"))
                    for point in data.data_points:
                        one = hasattr(point, "as_int")
                        value = getattr(point, point.WhichOneof("value")) if one else point.sum
                        received[metric.name].append(value)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(ExportMetricsServiceResponse().SerializeToString())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.environment = {
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "5000",
        }
        if not OTEL_BY_ITS_OWN_VARIABLES:
            self.environment |= {
                "AIRFLOW__METRICS__OTEL_HOST": "127.0.0.1",
                "AIRFLOW__METRICS__OTEL_PORT": str(self._server.server_port),
                "AIRFLOW__METRICS__OTEL_INTERVAL_MILLISECONDS": "5000",
            }

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
