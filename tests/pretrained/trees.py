"""Comparison of trees of arrays."""

from flax import traverse_util
import numpy as np


def assert_equal_trees(result, expected):
    """Both have the same paths and equal arrays."""
    result, expected = traverse_util.flatten_dict(result), traverse_util.flatten_dict(expected)
    assert result.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(result[path], array, err_msg="/".join(path))
