"""Values that no publisher writes."""

import json

from esc_jax.errors import UserError

NESTED = json.loads("[" * 100 + "]" * 100)
VALUES = (10**9, -1, 0, 1e300, float("nan"), "x" * 1000, "", None, [], {}, NESTED, True, [10**9] * 7)


def refusals(load, change, keys):
    """Number of values that are refused in one sentence. Others are allowed, or not used: then the model loads.

    Args:
        load: loads the model.
        change: sets a key to a value.
        keys: all keys.
    """
    number = 0
    for key in keys:
        for value in VALUES:
            change(key, value)
            try:
                load()
            except UserError as error:
                number += 1
                message = str(error)
                assert "\n" not in message and len(message) < 2000, (key, value, message)
    return number
