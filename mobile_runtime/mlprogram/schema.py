"""The part of Core ML's model format that an ML Program uses, as protobuf message classes.

The table below holds the field numbers of Apple's published Model.proto, FeatureTypes.proto and
MIL.proto under names of our own. The classes live in a private descriptor pool, so they can be
loaded in one process with any other copy of these definitions. Unlisted fields are skipped.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message: field type number[!oneof], …   `*` repeats, `map<T>` maps strings to T.
_MESSAGES = """
Model: specificationVersion int32 1, description ModelDescription 2, mlProgram Program 502
ModelDescription: functions *FunctionDescription 20, defaultFunctionName string 21
FunctionDescription: name string 1

Program: version int64 1, functions map<Function> 2
Function: inputs *NamedValueType 1, opset string 2, block_specializations map<Block> 3
Block: inputs *NamedValueType 1, outputs *string 2, operations *Operation 3
Operation: type string 1, inputs map<Argument> 2, outputs *NamedValueType 3, blocks *Block 4, \
attributes map<Value> 5
Argument: arguments *Binding 1
Binding: name string 1!binding, value Value 2!binding
NamedValueType: name string 1, type ValueType 2

ValueType: tensorType TensorType 1!type, listType ListType 2!type, tupleType TupleType 3!type, \
dictionaryType DictionaryType 4!type, stateType StateType 5!type
TensorType: dataType int32 1, rank int64 2, dimensions *Dimension 3
ListType: type ValueType 1, length Dimension 2
TupleType: types *ValueType 1
DictionaryType: keyType ValueType 1, valueType ValueType 2
StateType: wrappedType ValueType 1
Dimension: constant ConstantDimension 1!dimension, unknown UnknownDimension 2!dimension
ConstantDimension: size uint64 1
UnknownDimension: variadic bool 1

Value: type ValueType 2, immediateValue ImmediateValue 3!value, blobFileValue BlobFileValue 5!value
BlobFileValue: fileName string 1, offset uint64 2
ImmediateValue: tensor TensorValue 1!value, tuple ValueList 2!value, list ValueList 3!value
ValueList: values *Value 1
TensorValue: floats Floats 1!value, ints Ints 2!value, bools Bools 3!value, \
strings Strings 4!value, longInts LongInts 5!value, doubles Doubles 6!value, bytes Bytes 7!value
Floats: values *float 1
Ints: values *int32 1
Bools: values *bool 1
Strings: values *string 1
LongInts: values *int64 1
Doubles: values *double 1
Bytes: values bytes 1
"""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int64": _Field.TYPE_INT64,
    "uint64": _Field.TYPE_UINT64,
    "int32": _Field.TYPE_INT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


def _add_field(message: Any, package: str, name: str, kind: str, number: str) -> None:
    """Add one column of the table; a map becomes repeated entries, as protobuf defines it."""
    if kind.startswith("map<"):
        entry = message.nested_type.add(name="".join(w.title() for w in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, package, "key", "string", "1")
        _add_field(entry, package, "value", kind[4:-1], "2")
        kind = f"*{message.name}.{entry.name}"
    digits, _, oneof = number.partition("!")
    repeated, kind = kind.startswith("*"), kind.lstrip("*")
    field = message.field.add(name=name, number=int(digits))
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{package}.{kind}"
    if oneof:
        if oneof not in [existing.name for existing in message.oneof_decl]:
            message.oneof_decl.add(name=oneof)
        field.oneof_index = [existing.name for existing in message.oneof_decl].index(oneof)


def message_class(name: str, table: str, package: str, syntax: str = "proto3") -> Any:
    """Return the message `name` of `table`, which is written as above, in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax=syntax
    )
    for line in filter(None, table.splitlines()):
        title, _, fields = line.partition(": ")
        message = file.message_type.add(name=title)
        for field in fields.split(", "):
            _add_field(message, package, *field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


Model = message_class("Model", _MESSAGES, "minicpmv_mobile_mil")
"""The root message of `model.mlmodel`."""
