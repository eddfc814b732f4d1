"""Wallaroo: pipelines of Python functions with state, run by workers.

An application is a module with a function application_setup(args), which
builds a pipeline and returns wallaroo.build_application(name, pipeline)::

    import wallaroo

    def application_setup(args):
        pipeline = (
            wallaroo.source("Numbers", wallaroo.GenSourceConfig(Numbers()))
            .key_by(digit)
            .to(count)
            .to_sink(wallaroo.StdoutSinkConfig(text))
        )
        return wallaroo.build_application("Digits", pipeline)

wallaroo-supervisord runs it with any number of worker processes, and
`python -m wallaroo run app.py --workers 3` starts that for you; without
--workers it runs in one plain process; wallaroo.testing runs it in tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from . import codecs
from ._cli import (
    _kafka_parse_broker,
    kafka_parse_sink_options,
    kafka_parse_source_options,
    tcp_parse_input_addrs,
    tcp_parse_output_addrs,
)
from ._compat import (
    Unbuffered,
    deserialize,
    dt_to_timestamp,
    serialize,
    show_prints_at_once,
)
from ._configs import (
    FileSinkConfig,
    FileSourceConfig,
    GenSourceConfig,
    SinkConfig,
    SourceConfig,
    StdinSourceConfig,
    StdoutSinkConfig,
    TCPSinkConfig,
    TCPSourceConfig,
)
from ._decorators import (
    computation,
    computation_multi,
    decoder,
    encoder,
    key_extractor,
    state_computation,
    state_computation_multi,
)
from ._errors import WallarooParameterError
from ._kafka import (
    CustomKafkaSinkCLIParser,
    CustomKafkaSourceCLIParser,
    DefaultKafkaSinkCLIParser,
    DefaultKafkaSourceCLIParser,
    KafkaSinkConfig,
    KafkaSourceConfig,
)
from ._kafka_settings import FromEnv, FromFile
from ._kafka_sink import KafkaSink
from ._kafka_source import KafkaRecord, KafkaSource
from ._pipeline import Pipeline, _PipelineTree, build_application, source
from ._timers import Timers
from ._windows import (
    CountWindows,
    CountWindowsBuilder,
    RangeWindows,
    RangeWindowsBuilder,
    SessionWindows,
    SessionWindowsBuilder,
    count_windows,
    hours,
    microseconds,
    milliseconds,
    minutes,
    nanoseconds,
    range_windows,
    seconds,
    session_windows,
)
from ._wrapped import (
    _C,
    Aggregation,
    BaseWrapped,
    Computation,
    ComputationMulti,
    ConnectorDecoder,
    ConnectorEncoder,
    Decoder,
    Encoder,
    KeyExtractor,
    OctetDecoder,
    OctetEncoder,
    StateComputation,
    StateComputationMulti,
    _validate_aggregation,
    _validate_arity_compatability,
    _wallaroo_wrap,
    attach_to_module,
)

# The whole command line, set before application_setup is called.
_ARGS: tuple[str, ...] = ()

__all__ = [
    "Aggregation",
    "BaseWrapped",
    "Computation",
    "ComputationMulti",
    "ConnectorDecoder",
    "ConnectorEncoder",
    "CountWindows",
    "CountWindowsBuilder",
    "CustomKafkaSinkCLIParser",
    "CustomKafkaSourceCLIParser",
    "Decoder",
    "DefaultKafkaSinkCLIParser",
    "DefaultKafkaSourceCLIParser",
    "Encoder",
    "FileSinkConfig",
    "FileSourceConfig",
    "FromEnv",
    "FromFile",
    "GenSourceConfig",
    "KafkaRecord",
    "KafkaSink",
    "KafkaSinkConfig",
    "KafkaSource",
    "KafkaSourceConfig",
    "KeyExtractor",
    "OctetDecoder",
    "OctetEncoder",
    "Pipeline",
    "RangeWindows",
    "RangeWindowsBuilder",
    "SessionWindows",
    "SessionWindowsBuilder",
    "SinkConfig",
    "SourceConfig",
    "StateComputation",
    "StateComputationMulti",
    "StdinSourceConfig",
    "StdoutSinkConfig",
    "TCPSinkConfig",
    "TCPSourceConfig",
    "Timers",
    "Unbuffered",
    "WallarooParameterError",
    "attach_to_module",
    "build_application",
    "codecs",
    "computation",
    "computation_multi",
    "count_windows",
    "decoder",
    "deserialize",
    "dt_to_timestamp",
    "encoder",
    "hours",
    "kafka_parse_sink_options",
    "kafka_parse_source_options",
    "key_extractor",
    "microseconds",
    "milliseconds",
    "minutes",
    "nanoseconds",
    "range_windows",
    "run",
    "seconds",
    "serialize",
    "session_windows",
    "source",
    "state_computation",
    "state_computation_multi",
    "tcp_parse_input_addrs",
    "tcp_parse_output_addrs",
]


def run(
    application_setup: Callable[[list[str]], Any] | None = None,
    *,
    workers: int | None = None,
) -> None:
    """Run the application of the module that ends in this line.

    With it `python app.py` does what `python -m wallaroo run app.py` does,
    with the same options, and does not return.  In a module that is imported,
    as workers do it, nothing happens.  workers is what --workers is when the
    command line doesn't say.
    """
    module = sys._getframe(1).f_globals
    if module.get("__name__") == "__main__":
        from ._run import main_of

        sys.exit(main_of(module, application_setup, workers))


def __getattr__(name: str) -> Any:
    """Parts of the package without an import of their own."""
    if name in ("experimental", "helpers"):
        import importlib

        return importlib.import_module("wallaroo." + name)
    raise AttributeError("module 'wallaroo' has no attribute %r" % name)


show_prints_at_once()
