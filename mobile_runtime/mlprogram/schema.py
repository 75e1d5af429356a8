"""The part of Core ML's model format that ML Programs, pipelines and descriptions of models use, as
protobuf message classes.

The table below holds the field numbers of Apple's published Model.proto, FeatureTypes.proto,
NonMaximumSuppression.proto and MIL.proto under names of our own. The classes live in a private
descriptor pool, so they can be loaded in one process with any other copy of these definitions.
Unlisted fields are skipped.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message: field type number[!oneof], …   `*` repeats, `map<T>` maps strings to T.
_MESSAGES = """
Model: specificationVersion int32 1, description ModelDescription 2, mlProgram Program 502!Type, \
nonMaximumSuppression NonMaximumSuppression 610!Type, pipeline Pipeline 202!Type, \
pipelineClassifier PipelineOf 200!Type, pipelineRegressor PipelineOf 201!Type
ModelDescription: input *Feature 1, output *Feature 10, state *Feature 13, \
predictedFeatureName string 11, predictedProbabilitiesName string 12, \
functions *FunctionDescription 20, defaultFunctionName string 21, metadata Metadata 100
FunctionDescription: name string 1, input *Feature 2, output *Feature 3, state *Feature 6, \
predictedFeatureName string 4, predictedProbabilitiesName string 5
Metadata: shortDescription string 1, versionString string 2, author string 3, license string 4, \
userDefined map<string> 100
Pipeline: models *Model 1, names *string 2
PipelineOf: pipeline Pipeline 1
NonMaximumSuppression: pickTop PickTop 1, stringClassLabels Strings 100!labels, \
int64ClassLabels LongInts 101!labels, iouThreshold double 110, confidenceThreshold double 111, \
confidenceInputFeatureName string 200, coordinatesInputFeatureName string 201, \
iouThresholdInputFeatureName string 202, confidenceThresholdInputFeatureName string 203, \
confidenceOutputFeatureName string 210, coordinatesOutputFeatureName string 211
PickTop: perClass bool 1

Feature: name string 1, shortDescription string 2, type FeatureType 3
FeatureType: int64Type Empty 1!Type, doubleType Empty 2!Type, stringType Empty 3!Type, \
imageType ImageType 4!Type, multiArrayType ArrayType 5!Type, dictionaryType KeyType 6!Type, \
sequenceType Empty 7!Type, stateType StateFeature 8!Type, isOptional bool 1000
Empty:
KeyType: int64KeyType Empty 1!KeyType, stringKeyType Empty 2!KeyType
StateFeature: arrayType ArrayType 1
SizeRange: lowerBound uint64 1, upperBound int64 2
ImageType: width int64 1, height int64 2, colorSpace int32 3, enumeratedSizes ImageSizes 21!sizes, \
imageSizeRange ImageSizeRange 31!sizes
ImageSizes: sizes *ImageSize 1
ImageSize: width uint64 1, height uint64 2
ImageSizeRange: widthRange SizeRange 1, heightRange SizeRange 2
ArrayType: shape *int64 1, dataType int32 2, enumeratedShapes Shapes 21!shapes, \
shapeRange ShapeRange 31!shapes, intDefaultValue int32 41!default, \
floatDefaultValue float 51!default, doubleDefaultValue double 61!default
Shapes: shapes *Shape 1
Shape: shape *int64 1
ShapeRange: sizeRanges *SizeRange 1

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

# What a model may be besides the kinds above, by its field in Model: of these only the name counts.
_OTHER_KINDS = {
    "glmRegressor": 300,
    "supportVectorRegressor": 301,
    "treeEnsembleRegressor": 302,
    "neuralNetworkRegressor": 303,
    "bayesianProbitRegressor": 304,
    "glmClassifier": 400,
    "supportVectorClassifier": 401,
    "treeEnsembleClassifier": 402,
    "neuralNetworkClassifier": 403,
    "kNearestNeighborsClassifier": 404,
    "neuralNetwork": 500,
    "itemSimilarityRecommender": 501,
    "customModel": 555,
    "linkedModel": 556,
    "classConfidenceThresholding": 560,
    "oneHotEncoder": 600,
    "imputer": 601,
    "featureVectorizer": 602,
    "dictVectorizer": 603,
    "scaler": 604,
    "categoricalMapping": 606,
    "normalizer": 607,
    "arrayFeatureExtractor": 609,
    "identity": 900,
    "textClassifier": 2000,
    "wordTagger": 2001,
    "visionFeaturePrint": 2002,
    "soundAnalysisPreprocessing": 2003,
    "gazetteer": 2004,
    "wordEmbedding": 2005,
    "audioFeaturePrint": 2006,
    "serializedModel": 3000,
}
_MODEL_END = "pipelineRegressor PipelineOf 201!Type"
_TABLE = _MESSAGES.replace(
    _MODEL_END,
    ", ".join([_MODEL_END, *(f"{kind} Empty {n}!Type" for kind, n in _OTHER_KINDS.items())]),
)

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
        title, _, fields = line.partition(":")
        message = file.message_type.add(name=title)
        for field in filter(None, map(str.strip, fields.split(","))):
            _add_field(message, package, *field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


Model = message_class("Model", _TABLE, "minicpmv_mobile_mil")
"""The root message of `model.mlmodel`."""
