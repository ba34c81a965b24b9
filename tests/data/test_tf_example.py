"""tf.train.Example without TensorFlow, against the protocol buffers that TFDS carries."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from esc_jax.data import tf_example

FEATURES = st.dictionaries(st.text(max_size=20), st.one_of(st.binary(max_size=300), st.integers(0, 2**63 - 1)))


@hypothesis.given(FEATURES)
def test_decoding_inverts_encoding(features):
    example = tf_example.decode(tf_example.encode(features), features)
    assert {name: example[name][0] for name in example} == features


@hypothesis.given(FEATURES)
def test_the_protocol_buffer_is_the_same(features):
    protos = pytest.importorskip("tensorflow_datasets.proto.tf_example_generated_pb2")
    message = protos.Example.FromString(tf_example.encode(features))
    decoded = {}
    for name, feature in message.features.feature.items():
        (decoded[name],) = getattr(feature, feature.WhichOneof("kind")).value
    assert decoded == features


@hypothesis.given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50), st.lists(st.binary(max_size=9), max_size=4))
def test_lists_are_decoded(integers, texts):
    protos = pytest.importorskip("tensorflow_datasets.proto.tf_example_generated_pb2")
    message = protos.Example()
    message.features.feature["integers"].int64_list.value.extend(integers)
    message.features.feature["texts"].bytes_list.value.extend(texts)
    message.features.feature["other"].float_list.value.extend([1.0])
    example = tf_example.decode(message.SerializeToString(), ("integers", "texts"))
    assert example["integers"].tolist() == integers and example["texts"] == texts and len(example) == 2


@pytest.mark.parametrize("record", [b"\n\x05abc", b"\x08\x01", b"\n"])
def test_what_is_no_example(record):
    with pytest.raises((ValueError, IndexError)):
        tf_example.decode(record, ())


def test_features_of_floats_are_refused():
    protos = pytest.importorskip("tensorflow_datasets.proto.tf_example_generated_pb2")
    message = protos.Example()
    message.features.feature["x"].float_list.value.append(1.0)
    with pytest.raises(ValueError, match="feature x of a tf.train.Example holds floats"):
        tf_example.decode(message.SerializeToString(), ("x",))


def test_varints():
    assert tf_example.decode_varints(b"\x00\x7f\x80\x01" + b"\xff" * 9 + b"\x01").tolist() == [0, 127, 128, -1]
    assert tf_example.decode_varints(b"").dtype == np.int64
