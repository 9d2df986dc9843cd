"""The protocol's messages, made of a table of their fields; no code is generated.

In a pool of descriptors of their own, so that a client's copy of the same names may live in the
same process.
"""

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_PARAMETERS = "map<string,InferParameter>"
_NAMED = "1 name string, 2 version string"
_REGION = "1 name string, 2 key string, 3 offset uint64, 4 byte_size uint64"

# By message: number, name and type of each field. `*` before a type repeats it, `|` makes it one of
# several alternatives; a message inside of another is named with a point.
_TABLE: Mapping[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "1 live bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "1 ready bool",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "1 ready bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "1 name string, 2 version string, 3 extensions *string",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": "1 name string, 2 versions *string, 3 platform string, "
    "4 inputs *ModelMetadataResponse.TensorMetadata, "
    "5 outputs *ModelMetadataResponse.TensorMetadata",
    "ModelMetadataResponse.TensorMetadata": "1 name string, 2 datatype string, 3 shape *int64",
    "InferParameter": "1 bool_param |bool, 2 int64_param |int64, 3 string_param |string, "
    "4 double_param |double, 5 uint64_param |uint64",
    "InferTensorContents": "1 bool_contents *bool, 2 int_contents *int32, "
    "3 int64_contents *int64, 4 uint_contents *uint32, 5 uint64_contents *uint64, "
    "6 fp32_contents *float, 7 fp64_contents *double, 8 bytes_contents *bytes",
    "ModelInferRequest": f"1 model_name string, 2 model_version string, 3 id string, "
    f"4 parameters {_PARAMETERS}, 5 inputs *ModelInferRequest.InferInputTensor, "
    f"6 outputs *ModelInferRequest.InferRequestedOutputTensor, 7 raw_input_contents *bytes",
    "ModelInferRequest.InferInputTensor": f"1 name string, 2 datatype string, 3 shape *int64, "
    f"4 parameters {_PARAMETERS}, 5 contents InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": f"1 name string, 2 parameters {_PARAMETERS}",
    "ModelInferResponse": f"1 model_name string, 2 model_version string, 3 id string, "
    f"4 parameters {_PARAMETERS}, 5 outputs *ModelInferResponse.InferOutputTensor, "
    f"6 raw_output_contents *bytes",
    "ModelInferResponse.InferOutputTensor": f"1 name string, 2 datatype string, 3 shape *int64, "
    f"4 parameters {_PARAMETERS}, 5 contents InferTensorContents",
    "ModelStreamInferResponse": "1 error_message string, 2 infer_response ModelInferResponse",
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": "1 config ModelConfig",
    "ModelConfig": "1 name string, 2 platform string, 4 max_batch_size int32, "
    "5 input *ModelInput, 6 output *ModelOutput, 17 backend string",
    # The type is an enumeration, which travels as an int32 does.
    "ModelInput": "1 name string, 2 data_type int32, 4 dims *int64, 8 optional bool",
    "ModelOutput": "1 name string, 2 data_type int32, 3 dims *int64",
    "ModelStatisticsRequest": _NAMED,
    "StatisticDuration": "1 count uint64, 2 ns uint64",
    "InferStatistics": "1 success StatisticDuration, 2 fail StatisticDuration, "
    "3 queue StatisticDuration, 4 compute_input StatisticDuration, "
    "5 compute_infer StatisticDuration, 6 compute_output StatisticDuration, "
    "7 cache_hit StatisticDuration, 8 cache_miss StatisticDuration",
    "ModelStatistics": "1 name string, 2 version string, 3 last_inference uint64, "
    "4 inference_count uint64, 5 execution_count uint64, 6 inference_stats InferStatistics",
    "ModelStatisticsResponse": "1 model_stats *ModelStatistics",
    "RepositoryIndexRequest": "1 repository_name string, 2 ready bool",
    "RepositoryIndexResponse": "1 models *RepositoryIndexResponse.ModelIndex",
    "RepositoryIndexResponse.ModelIndex": "1 name string, 2 version string, 3 state string, "
    "4 reason string",
    "SystemSharedMemoryStatusRequest": "1 name string",
    "SystemSharedMemoryStatusResponse": "1 regions "
    "map<string,SystemSharedMemoryStatusResponse.RegionStatus>",
    "SystemSharedMemoryStatusResponse.RegionStatus": _REGION,
    "SystemSharedMemoryRegisterRequest": _REGION,
    "SystemSharedMemoryRegisterResponse": "",
    "SystemSharedMemoryUnregisterRequest": "1 name string",
    "SystemSharedMemoryUnregisterResponse": "",
    "CudaSharedMemoryStatusRequest": "1 name string",
    "CudaSharedMemoryStatusResponse": "",
    "CudaSharedMemoryUnregisterRequest": "1 name string",
    "CudaSharedMemoryUnregisterResponse": "",
}

_HEALTH = "grpc.health.v1"
_HEALTH_TABLE: Mapping[str, str] = {
    "HealthCheckRequest": "1 service string",
    "HealthCheckResponse": "1 status int32",
}
HEALTH_SERVICE = f"{_HEALTH}.Health"

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}
_MAP = re.compile(r"map<string,(.+)>")


def _make(package: str, table: Mapping[str, str]) -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"flowmo/{package}.proto", package=package, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for path in table:
        outer, _, inner = path.partition(".")
        holder = made[outer].nested_type if inner else file.message_type
        made[path] = holder.add(name=inner or outer)
    for path, fields in table.items():
        for text in filter(None, fields.split(", ")):
            number, name, kind = text.split(" ")
            _add(made[path], f".{package}", path, int(number), name, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        path: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{path}"))
        for path in table
    }


def _add(message: Any, package: str, path: str, number: int, name: str, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if found := _MAP.fullmatch(kind):
        # A map is a repeated message of keys and values, in a message of its own.
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add(entry, package, path, 1, "key", "string")
        _add(entry, package, path, 2, "value", found[1])
        field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        field.type_name = f"{package}.{path}.{entry.name}"
        return
    if kind.startswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0
    if kind.startswith("*"):
        field.label = _Field.LABEL_REPEATED
    kind = kind.lstrip("*|")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f"{package}.{kind}"


# Message classes by name.
MESSAGES = _make(PACKAGE, _TABLE)
HEALTH_MESSAGES = _make(_HEALTH, _HEALTH_TABLE)
SERVING, NOT_SERVING = 1, 2

# Element types of a model's configuration.
_TYPES = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
DATA_TYPES = {name: number for number, name in enumerate(_TYPES.split())}
